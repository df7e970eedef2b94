"""The exactness report finds what is wrong, says where and by how much, and never hides it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import benchmarks.exactness.__main__ as command
from benchmarks.exactness import matrix, ways
from benchmarks.exactness.prompts import CUT_OFFS, SETTINGS
from benchmarks.exactness.tally import Record, compared
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.trees.policies import available
from sage_core.trees.steps import Step
from sage_core.trees.tree import TokenTree
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.heads import KINDS
from tests.tiny.oracle import check_steps, first_mismatch, reference

pytestmark = pytest.mark.filterwarnings("ignore:Unfeasible length constraints")

NEW = 12


@pytest.fixture
def oracle() -> SimpleNamespace:
    target, draft = build_pair("qwen2_vl")
    inputs = make_inputs(target, "qwen2_vl", "image")
    expected = reference(target, inputs, max_new_tokens=NEW)
    prompt = inputs["input_ids"].shape[1]
    return SimpleNamespace(
        target=target, draft=draft, inputs=inputs, expected=expected, prompt=prompt
    )


def test_equal_sequences_have_no_mismatch(oracle: SimpleNamespace) -> None:
    got = oracle.expected.clone()
    assert first_mismatch(oracle.target, oracle.inputs, oracle.expected, got) is None


def test_a_wrong_token_is_found_with_position_and_margin(oracle: SimpleNamespace) -> None:
    got = oracle.expected.clone()
    right = int(got[0, oracle.prompt + 5])
    wrong = 8 if right != 8 else 9
    got[0, oracle.prompt + 5] = wrong
    got[0, oracle.prompt + 9] = wrong
    found = first_mismatch(oracle.target, oracle.inputs, oracle.expected, got, max_new_tokens=NEW)
    assert found is not None
    assert (found.position, found.expected, found.got, found.near_tie) == (5, right, wrong, False)
    prefix = {**oracle.inputs, "input_ids": oracle.expected[:, : oracle.prompt + 5]}
    prefix["attention_mask"] = torch.ones_like(prefix["input_ids"])
    types = torch.zeros_like(prefix["input_ids"], dtype=torch.int32)
    types[:, : oracle.prompt] = oracle.inputs["mm_token_type_ids"]
    prefix["mm_token_type_ids"] = types
    with torch.no_grad():
        logits = oracle.target(**prefix).logits[0, -1]
    assert found.margin == pytest.approx(float(logits[right] - logits[wrong]), abs=1e-4)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_token_dropped_or_added_is_found(oracle: SimpleNamespace, change: int) -> None:
    got = torch.cat([oracle.expected, oracle.expected[:, -1:]], dim=1)
    got = got[:, : oracle.expected.shape[1] + change]
    found = first_mismatch(oracle.target, oracle.inputs, oracle.expected, got, max_new_tokens=NEW)
    assert found is not None
    assert found.position == NEW + min(0, change)
    assert (found.margin, found.near_tie) == (None, False)
    assert (found.got is None) == (change < 0)


def test_a_tie_is_told_from_an_error(oracle: SimpleNamespace) -> None:
    """Two tokens with the same row in the head score the same: swapping them is a near tie."""
    import copy

    target = copy.deepcopy(oracle.target)
    first = int(oracle.expected[0, oracle.prompt])
    twin = 8 if first != 8 else 9
    with torch.no_grad():
        target.lm_head.weight[twin] = target.lm_head.weight[first]
    expected = reference(target, oracle.inputs, max_new_tokens=1)
    got = expected.clone()
    got[0, -1] = twin if int(expected[0, -1]) == first else first
    found = first_mismatch(target, oracle.inputs, expected, got, max_new_tokens=1)
    assert found is not None
    assert found.near_tie
    assert found.margin == pytest.approx(0, abs=1e-6)


def _step(index: int, tokens: tuple[int, ...], **more: object) -> Step:
    defaults = {"root": -1, "tree": TokenTree(), "accepted": (), "finished": False}
    return Step(index=index, tokens=tokens, **{**defaults, **more})  # type: ignore[arg-type]


PAIR_TREE = TokenTree((5, 6), (-1, 0), (0.5, 0.5), (0, 0))
LIES = {
    "a token the sequence lacks": [_step(0, (4,)), _step(1, (7,), root=4, finished=True)],
    "no end": [_step(0, (4,)), _step(1, (5,), root=4)],
    "another root": [_step(0, (4,)), _step(1, (5,), root=9, finished=True)],
    "a path cut short": [
        _step(0, (4,)),
        _step(1, (5,), root=4, tree=PAIR_TREE),
        _step(2, (6,), root=5, finished=True),
    ],
    "another path": [
        _step(0, (4,)),
        _step(1, (6, 5), root=4, tree=PAIR_TREE, accepted=(0,), finished=True),
    ],
}
STORIES = {"a path cut short": [4, 5, 6], "another path": [4, 6, 5]}


@pytest.mark.parametrize("name", LIES)
def test_records_that_do_not_tell_the_sequence_are_caught(name: str) -> None:
    with pytest.raises(AssertionError):
        check_steps(tuple(LIES[name]), STORIES.get(name, [4, 5]))


def test_honest_records_pass() -> None:
    steps = (
        _step(0, (4,)),
        _step(1, (5, 6, 7), root=4, tree=PAIR_TREE, accepted=(0, 1), finished=True),
    )
    check_steps(steps, [4, 5, 6, 7])


def test_the_luck_of_a_draw_counts(oracle: SimpleNamespace) -> None:
    """The oracle's own token is ahead of every other by its score and its luck together."""
    sampling = {"do_sample": True, "top_k": 0, "temperature": 1.5, "max_new_tokens": NEW}
    torch.manual_seed(5)
    expected = reference(oracle.target, oracle.inputs, **sampling)
    got = expected.clone()
    greedy = oracle.expected[0, oracle.prompt :].tolist()
    drawn = expected[0, oracle.prompt :].tolist()
    assert drawn != greedy, "a text that no luck had a part in"
    wrong = 8 if drawn[4] != 8 else 9
    got[0, oracle.prompt + 4] = wrong
    asked = (oracle.target, oracle.inputs, expected, got)
    found = first_mismatch(*asked, seed=5, **sampling)
    assert found is not None and found.position == 4
    assert found.margin is not None and found.margin > 0
    other = first_mismatch(*asked, seed=6, **sampling)
    assert other is not None and (other.margin, other.near_tie) == (None, False)


def test_a_tie_in_luck_is_told_from_an_error(oracle: SimpleNamespace) -> None:
    """A token whose score is raised until its luck makes it level with the one that was drawn."""
    import copy

    from sage_core.bench.oracle import gumbel_noise

    target = copy.deepcopy(oracle.target)
    sampling = {"do_sample": True, "top_k": 0, "max_new_tokens": 1}
    torch.manual_seed(5)
    expected = reference(target, oracle.inputs, **sampling)
    drawn = int(expected[0, -1])
    twin = 8 if drawn != 8 else 9
    scores = target.generate(
        **oracle.inputs, **sampling | {"do_sample": False},
        output_scores=True, return_dict_in_generate=True,
    ).scores[0][0]  # fmt: skip
    luck = gumbel_noise(5, 0, scores)
    wanted = scores[drawn] + luck[drawn] - luck[twin]
    with torch.no_grad():
        target.lm_head.weight[twin] *= (wanted - 1e-6) / scores[twin]
    assert torch.equal(_seeded(target, oracle.inputs, sampling), expected)
    got = expected.clone()
    got[0, -1] = twin
    found = first_mismatch(target, oracle.inputs, expected, got, seed=5, **sampling)
    assert found is not None and found.near_tie
    assert found.margin == pytest.approx(0, abs=1e-5)


def _seeded(target: Any, inputs: dict[str, Any], sampling: dict[str, Any]) -> torch.Tensor:
    torch.manual_seed(5)
    return reference(target, inputs, **sampling)


def _parts(full: bool) -> list[tuple[str, str, Any, tuple[Any, ...]]]:
    return [
        (part, family, spec, ways)
        for part in matrix.PARTS
        for family in FAMILIES
        for spec, ways in matrix.groups(part, family, full=full, cut_offs=True)
    ]


def test_the_matrix_has_everything() -> None:
    """A policy, a kind of head or a kind of input that is new must not be forgotten."""
    whole = _parts(full=True)
    ways = {way for *_, each in whole for way in each}
    assert {way.policy.partition(":")[0] for way in ways} == set(available())
    assert {way.draft for way in ways} >= {*KINDS, "model", "ngram"}
    for part in ("policies", "heads", "options", "turns"):
        seen = {(family, spec.kind) for name, family, spec, _ in whole if name == part}
        assert seen == {(name, kind) for name, family in FAMILIES.items() for kind in family.kinds}
    assert {spec.setting for *_, spec, _ in whole} == set(SETTINGS)


def test_the_quick_form_has_every_way_with_some_family() -> None:
    ways = [{way for *_, each in _parts(full) for way in each} for full in (True, False)]
    assert ways[0] == ways[1]


def test_without_cut_offs_no_setting_has_one() -> None:
    for part in matrix.PARTS:
        for spec, _ in matrix.groups(part, "llava", full=True, cut_offs=False):
            assert spec.setting not in CUT_OFFS


QUICK = ["--only", "tiny", "--family"]


def test_the_command_writes_its_report_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [*QUICK, "llama", "--output", str(tmp_path / "run")]
    whole = tmp_path / "run.json"
    calls: list[int] = []

    def interrupted(cases: Any) -> Record:
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compared(cases)

    monkeypatch.setattr(command, "compared", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.main(asked)
    first = json.loads(whole.read_text(encoding="utf-8"))
    assert first["done"] == ["policies llama", "heads llama"]
    assert command.main([*asked, "--resume"]) == 0
    assert len(calls) == len(matrix.PARTS) + 1, "what was done is not done again"
    data = json.loads(whole.read_text(encoding="utf-8"))
    assert data["results"]["heads"] == first["results"]["heads"]
    cases = 0
    for part in matrix.PARTS:
        (counted,) = data["results"][part]["group"].values()
        assert counted["exact"] == counted["cases"] > 0
        assert counted["accepted"] > 0, "a matrix in which nothing is accepted shows little"
        cases += counted["cases"]
    assert f"{cases} of {cases} texts equal" in (tmp_path / "run.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="other arguments"):
        command.main([*asked, "--resume", "--plain"])


@pytest.mark.parametrize(
    ("family", "part"), [("llava_onevision", "heads"), ("qwen2_5_vl", "options")]
)
def test_pictures(family: str, part: str) -> None:
    assert command.main([*QUICK, family, "--part", part]) == 0


def test_bfloat16_differs_at_near_ties_only(tmp_path: Path) -> None:
    asked = [*QUICK, "llava", "--part", "policies", "--dtype", "bfloat16"]
    assert command.main([*asked, "--output", str(tmp_path / "run")]) == 0
    data = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert data["passes"] == "plain"
    for record in data["results"].values():
        near = sum(counted["near_ties"] for counted in record["group"].values())
        assert near == len(record["mismatches"])
        assert all(m["near_tie"] and m["margin"] is not None for m in record["mismatches"])


def _cut(decoder: Any, **inputs: object) -> Any:
    return SpeculativeDecoder.generate(decoder, **{**inputs, "max_new_tokens": 3})


def _broken(decoder: Any, **inputs: object) -> Any:
    raise IndexError("no such row")


WRONG = {"a text cut short": (_cut, "(no margin)"), "an error": (_broken, "IndexError: no such")}


@pytest.mark.parametrize("name", WRONG)
def test_the_command_fails_and_says_so_when_a_decoder_is_wrong(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, said = WRONG[name]
    monkeypatch.setattr(
        ways, "SpeculativeDecoder", type("_", (SpeculativeDecoder,), {"generate": wrong})
    )
    assert command.main([*QUICK, "llama", "--part", "policies"]) == 1
    out = capsys.readouterr().out
    assert "WRONG: llama text prompt=" in out and said in out

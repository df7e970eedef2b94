"""The exactness report finds what is wrong, says where and by how much, and never hides it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import benchmarks.exactness as exactness
from sage_core.bench.oracle import check_steps, first_mismatch, reference
from sage_core.speculative import SpeculativeDecoder
from sage_core.steps import Step
from sage_core.tree import TokenTree
from tests.tiny import build_pair, make_inputs

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


def test_the_command_writes_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {family: exactness.FAMILIES[family] for family in ("llama", "qwen2")}
    monkeypatch.setattr(exactness, "FAMILIES", few)
    assert exactness.main(["--only", "tiny", "--output", str(tmp_path / "run")]) == 0
    data = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    (tallies,) = data["results"].values()
    assert set(tallies) == set(few)
    assert all(t["exact"] == t["cases"] == 2 for group in tallies.values() for t in group.values())
    cases = 2 * 2 * len(exactness.POLICIES)
    assert f"{cases} of {cases} exact" in (tmp_path / "run.md").read_text(encoding="utf-8")


def test_the_command_fails_and_says_so_when_a_decoder_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrong(SpeculativeDecoder):
        def generate(self, **inputs: object) -> object:
            return super().generate(**{**inputs, "max_new_tokens": 3})

    monkeypatch.setattr(exactness, "FAMILIES", {"llama": exactness.FAMILIES["llama"]})
    monkeypatch.setattr(exactness, "SpeculativeDecoder", Wrong)
    assert exactness.main(["--only", "tiny"]) == 1
    assert "WRONG: llama text prompt=12 new=7 plain" in capsys.readouterr().out

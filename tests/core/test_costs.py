"""Pass costs: curves, the store, and calibration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sage_core.engine.costs import calibration
from sage_core.engine.costs.keys import pair_key, pass_key
from sage_core.engine.costs.store import MAX_ENTRIES, CostStore, corrected, default_path
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import OptionError
from sage_core.runtime.runner import Runner
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policies.sage.policy import UNKNOWN
from sage_core.trees.steps import PhaseSeconds, Shape, Step
from sage_core.trees.tree import TokenTree
from tests.tiny import build_pair, make_inputs

pytestmark = pytest.mark.real_costs


def test_costs_are_straight_between_points_and_beyond() -> None:
    costs = Costs(((1, 10.0), (9, 18.0), (17, 20.0)), ((1, 2.0),))
    assert costs.verify([1, 5, 9, 13, 17, 25]).tolist() == [10, 14, 18, 19, 20, 22]
    assert costs.propose([1, 8]).tolist() == [2, 2]
    line = Costs.linear(1.0, 0.5, 0.1, 0.01)
    assert line.verify([1, 3]).tolist() == [1.0, 2.0]
    assert line.propose([3])[0] == pytest.approx(0.12)


@pytest.mark.parametrize(
    "target",
    [
        (),
        ((0, 1.0),),
        ((2, 1.0), (1, 2.0)),
        ((1, 0.0),),
        ((1, float("nan")),),
        ((1, float("inf")),),
    ],
)
def test_invalid_costs_are_refused(target: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(OptionError):
        Costs(target, ((1, 1.0),))


def test_costs_are_kept_by_key_and_context(tmp_path: Path) -> None:
    path = tmp_path / "new" / "costs.json"
    store = CostStore(path)
    assert store.costs("pair", 300) is None
    assert store.add("pair", 300, UNKNOWN) is UNKNOWN
    assert store.add("pair", 300, Costs.linear(1, 1, 1)) is UNKNOWN, "the first are kept"
    assert not path.exists(), "nothing is written before the end"
    store.save()
    again = CostStore(path)
    assert again.costs("pair", 400) == UNKNOWN
    assert again.costs("pair", 600) is None, "another context"
    assert again.costs("other", 300) is None


def test_stores_of_two_runs_do_not_undo_each_other(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    one, other = CostStore(path), CostStore(path)
    for store, name, pause in ((other, "y", 1.0), (one, "x", 2.0)):
        store.add(name, 300, UNKNOWN)
        store.keep(f"sage: {name}", {"pause": pause})
    other.save()
    one.save()
    after = CostStore(path)
    assert after.learned("sage: y") == {"pause": 1.0}
    assert after.learned("sage: x") == {"pause": 2.0}
    assert after.costs("x", 300) == after.costs("y", 300) == UNKNOWN


def test_the_file_keeps_the_latest_entries_only(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    for first in (0, MAX_ENTRIES // 2):
        store = CostStore(path)
        for number in range(first, first + MAX_ENTRIES):
            store.add(f"pair {number}", 300, UNKNOWN)
            store.keep(f"sage: {number}", {"pause": 1.0})
        store.save()
    data = json.loads(path.read_text())
    assert len(data["costs"]) == len(data["learned"]) == MAX_ENTRIES
    assert CostStore(path).costs("pair 0", 300) is None
    assert CostStore(path).costs(f"pair {MAX_ENTRIES}", 300) == UNKNOWN


def test_a_store_without_a_file_and_one_that_found_nothing_write_nothing(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    CostStore(path).save()
    CostStore().save()
    assert list(tmp_path.iterdir()) == []


def test_options_that_change_acceptance_are_part_of_the_key() -> None:
    """A lossy run must not teach an exact one."""
    target, draft = build_pair("llama")
    options: list[dict[str, Any]] = [
        {},
        {"lookup": "ngram"},
        {"viskip": 0.3},
        {"lossy": "ears", "candidates": "drawn"},
        {"lossy": "ears:tolerance=0.5", "candidates": "drawn"},
        {"candidates": "drawn"},
        {"draft_vocab": [9, 10]},
    ]
    made = [SpeculativeDecoder(target, draft, "static", **one).settings for one in options]
    assert len({pair_key(settings) for settings in made}) == len(options)
    keys = {pass_key(settings, Runner(target)) for settings in made}
    assert len(keys) == 2, "a reduced vocabulary makes draft passes cheaper; nothing else does"


def test_the_key_of_costs() -> None:
    target, draft = build_pair("llama")
    decoder = SpeculativeDecoder(target, draft, "sage")
    plain = pass_key(decoder.settings, Runner(target))
    with pytest.MonkeyPatch.context() as patch:
        config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        patch.setattr(target.config, "quantization_config", config, raising=False)
        quantized = pass_key(decoder.settings, Runner(target))
        patch.setitem(config, "load_in_4bit", False)
        assert len({plain, quantized, pass_key(decoder.settings, Runner(target))}) == 3
    assert "bitsandbytes" in quantized
    assert pass_key(decoder.settings, Runner(target)) == plain


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 0, "costs": {}}',
    '{"version": 1, "costs": {"pair @512": {"target": [[1, -1]], "draft": [[1, 1]], "step": 0}}}',
    '{"version": 1, "costs": {}, "learned": {"sage: pair": {"pause": NaN}}}',
    '{"version": 1, "costs": {}, "learned": {"sage: pair": [1]}}',
])  # fmt: skip
def test_a_damaged_file_is_ignored(tmp_path: Path, text: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text)
    store = CostStore(path)
    assert store.costs("pair", 300) is None
    assert store.learned("sage: pair") == {}
    store.add("pair", 300, UNKNOWN)
    store.save()
    assert json.loads(path.read_text())["costs"]


GOOD = {"target": [[1, 0.1], [2, 0.2]], "draft": [[1, 0.1]], "step": 0.0}


@pytest.mark.parametrize(
    "bad",
    [
        {"target": [[1, 1e308]]},
        {"target": [[1, 1e-300]]},
        {"target": [[1, -0.1]]},
        {"target": [[1, 0]]},
        {"target": [[10**15, 0.1]]},
        {"target": [[2, 0.1], [1, 0.2]]},
        {"target": [[0, 0.1]]},
        {"target": []},
        {"step": -1},
        {"step": 1e300},
        {"draft": [[1, 1e30]]},
    ],
    ids=str,
)
def test_numbers_that_no_pass_has_are_dropped_alone(tmp_path: Path, bad: dict[str, Any]) -> None:
    path = tmp_path / "costs.json"
    costs = {"good @256": GOOD, "bad @256": GOOD | bad}
    learned = {"good": {"rate": 1.5}, "bad": {"rate": 1e300}}
    path.write_text(json.dumps({"version": 1, "costs": costs, "learned": learned}))
    store = CostStore(path)
    assert store.costs("good", 100) is not None
    assert store.costs("bad", 100) is None
    assert store.learned("good") == {"rate": 1.5}
    assert store.learned("bad") == {}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"version": 1, "costs": {"a @256": {"target": [[1, NaN]]}}}',
        '{"version": 1, "costs": {"a @256": {"target": [["x", 1]]}}}',
        '{"version": 1, "costs": [], "learned": 5}',
        "\ud800",
    ],
    ids=lambda text: text[:20],
)
def test_a_file_of_anything_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "costs.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    store = CostStore(path)
    assert store.costs("a", 100) is None and store.learned("a") == {}
    store.add("a", 100, Costs(((1, 0.1),), ((1, 0.1),)))
    store.save()
    assert CostStore(path).costs("a", 100) is not None


def test_a_device_or_a_pipe_stays_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", Path("/dev/null"), tmp_path, Path("a\0b")):
        store = CostStore(name)
        assert store.costs("a", 100) is None
        store.add("a", 100, Costs(((1, 0.1),), ((1, 0.1),)))
        store.save()
    assert (tmp_path / "pipe").is_fifo() and Path("/dev/null").is_char_device()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_read_only_folder_is_ignored(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    store = CostStore(blocked / "costs.json")
    store.add("pair", 300, UNKNOWN)
    store.save()
    assert blocked.read_text() == ""


def test_the_file_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_COSTS", "off")
    assert default_path() is None
    monkeypatch.setenv("SAGE_COSTS", "here.json")
    assert default_path() == Path("here.json")
    monkeypatch.delenv("SAGE_COSTS")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_path() == Path("/cache/sage/costs.json")


def test_costs_follow_the_times_of_steps() -> None:
    known = Costs(((1, 1.0), (65, 2.0)), ((1, 0.1), (8, 0.2)))

    def made(verify: float, draft: float) -> Step:
        tree = TokenTree((1,), (-1,), (0.5,), (0,))
        seconds = PhaseSeconds(draft=draft, verify=verify * 65 / 64, accept=0.01, commit=0.02)
        return Step(1, 0, tree, (), (1,), Shape(), 2, seconds)

    same = corrected(known, [made(1.0, 0.2)] * 9)
    assert same.target[0][1] == pytest.approx(1.0)
    assert same.draft[1][1] == pytest.approx(0.2)
    assert same.step == pytest.approx(0.03)
    dearer = corrected(known, [made(3.0, 0.6)] * 9 + [made(99.0, 99.0)] * 3)
    moved = 1 + 2 * 12 / (12 + 16)  # three times as dear, by twelve steps
    assert dearer.target[1][1] == pytest.approx(2 * moved)
    assert dearer.draft[0][1] == pytest.approx(0.1 * moved)
    longer = corrected(known, [made(3.0, 0.6)] * 160)
    assert 2.8 < longer.target[0][1] < 3, "a long text tells more than what was timed at first"
    assert corrected(known, [made(9.0, 9.0)] * 2) == known


def test_a_pair_is_measured_once_and_its_text_stays_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MIN_SECONDS", 60.0)  # a busy machine would leave sizes out
    target, draft = build_pair("qwen2_5_vl")
    inputs = make_inputs(target, "qwen2_5_vl", "image", length=9)
    expected = target.generate(**inputs, max_new_tokens=24, do_sample=False)
    path = tmp_path / "costs.json"
    for _ in range(2):
        store = CostStore(path)
        decoder = SpeculativeDecoder(target, draft, "sage", costs=store)
        assert torch.equal(decoder.generate(**inputs, max_new_tokens=24).sequences, expected)
        store.save()
        places = json.loads(path.read_text())["costs"]
        assert len(places) == 1
        assert " x1, " in next(iter(places))
    known = next(iter(places.values()))
    assert [point[0] for point in known["target"]] == [1, 2, 4, 8, 16, 32, 64]
    assert known["target"] == sorted(known["target"], key=lambda point: point[1])


def test_given_costs_give_equal_trees() -> None:
    target, draft = build_pair("llava")
    inputs = make_inputs(target, "llava", "image", length=9)
    decoder = SpeculativeDecoder(target, draft, "sage", costs=Costs.linear(1, 0.001, 0.01))
    runs = [decoder.generate(**inputs, max_new_tokens=24).steps for _ in range(2)]
    assert [step.tree for step in runs[0]] == [step.tree for step in runs[1]]
    assert sum(len(step.tree) for step in runs[0]) > 24


def test_learned_state_is_stored_for_the_next_text(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    target, _ = build_pair("llama")
    inputs = make_inputs(target, "llama", "text", length=9)

    def shaped(seed: int) -> list[str]:
        _, other = build_pair("llama", seed=seed)
        store = CostStore(path)
        SpeculativeDecoder(target, other, "sage", costs=store).generate(**inputs, max_new_tokens=24)
        store.save()
        return list(json.loads(path.read_text())["learned"])

    known = shaped(1)
    assert len(known) == 1
    assert known[0].startswith("sage: ")
    assert shaped(1) == known
    assert len(shaped(2)) == 2, "another draft of that shape is another pair"
    stored = json.loads(path.read_text())["learned"][known[0]]
    assert stored["accepting.seen"] > 0
    assert all(isinstance(value, float) for value in stored.values())

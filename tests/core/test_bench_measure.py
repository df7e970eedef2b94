"""The measurement: known speeds give known figures, wrong output is detected, runs resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sage_core.bench.items import Files, Item
from sage_core.bench.measure import Measurement, Plan
from sage_core.bench.records import Failure, Record, Results
from sage_core.bench.store import LINES, Store
from sage_core.bench.summary import summary
from sage_core.errors import InputError, OptionError
from tests.core.bench_fake import END, Clock, FakeEngine, FakeMethod, items

REFERENCE = "autoregressive"


def measured(
    methods: list[FakeMethod],
    names: tuple[str, ...] = ("a", "b", "c"),
    repeats: int = 1,
    texts: dict[str, tuple[int, ...]] | None = None,
    results: Results | None = None,
) -> Results:
    plan = Plan(items(*names), tuple(methods), REFERENCE, repeats)
    measurement = Measurement(plan, FakeEngine(methods[0].clock, texts), results)
    for _ in measurement.lines():
        pass
    return measurement.results


def table(results: Results, methods: list[FakeMethod], **options: Any) -> dict[str, dict[str, Any]]:
    report = summary(results, [m.name for m in methods], REFERENCE, **options)
    return {method["name"]: method for method in report["methods"]}


def two(**second: Any) -> list[FakeMethod]:
    clock = Clock()
    return [FakeMethod(REFERENCE, clock), FakeMethod("other", clock, **second)]


def test_known_speeds_give_the_known_table():
    clock = Clock()
    methods = [
        FakeMethod(REFERENCE, clock, rates={"a": 10.0, "b": 20.0, "c": 40.0}),
        FakeMethod("fast", clock, rates={"a": 30.0, "b": 30.0, "c": 100.0}, accepted=4),
        FakeMethod("slow", clock, rates={"a": 5.0, "b": 40.0, "c": 10.0}),
    ]
    found = table(measured(methods, repeats=3), methods)
    assert [m["tokens_per_second"] for m in found.values()] == pytest.approx([20, 30, 10])
    assert found["fast"]["speedup"] == pytest.approx(30 / 20), "a ratio of paired medians"
    assert found["fast"]["median_item_speedup"] == pytest.approx(2.5)  # of 3, 1.5 and 2.5
    assert found["fast"]["worst_item_speedup"] == pytest.approx(1.5)
    assert found["fast"]["worst_item"] == "b"
    assert found["fast"]["slower_items"] == 0
    assert found["slow"]["slower_items"] == pytest.approx(2 / 3)
    assert found["slow"]["worst_item_speedup"] == pytest.approx(0.25)
    low, high = found["fast"]["speedup_interval"]
    assert (low, high) == pytest.approx((1.5, 3.0)), "the resamples of one item alone"
    assert found[REFERENCE]["speedup_interval"] == pytest.approx((1, 1))
    # Ten tokens behind the first: two steps of five.
    assert (found["fast"]["mean_accepted"], found["fast"]["steps"]) == (4, 2 * 3 * 3)
    assert found["fast"]["mean_acceptance_length"] == 5, "with the bonus token"
    assert found["slow"]["mean_acceptance_length"] == 1
    assert (found["fast"]["nodes_per_step"], found["fast"]["draft_passes_per_step"]) == (4, 2)
    assert found["fast"]["accepted_histogram"] == {"4": 18}
    assert found["fast"]["acceptance_by_depth"][3] == {"depth": 4, "steps": 18, "accepted": 1.0}
    seconds = found["fast"]["seconds"]
    assert seconds["prefill"] == pytest.approx(3.0), "a second an item, whatever the repeats"
    assert seconds["decode"] == pytest.approx(10 / 30 + 10 / 30 + 10 / 100)
    assert seconds["draft"] == pytest.approx(1.5)
    assert [m["exact"] for m in found.values()] == [3, 3, 3]
    whole = [(11 / (1 + 10 / rate)) for rate in (20, 30)]
    assert found["fast"]["end_to_end_speedup"] == pytest.approx(whole[1] / whole[0])


def test_a_rate_is_the_median_of_its_repeats():
    methods = two()
    speeds = iter([10.0, 1.0, 10.0, 10.0])  # the warm-up's, then those of the repeats

    def slow_once(item: str) -> None:
        methods[1].rate = next(speeds)

    methods[1].on_call = slow_once
    results = measured(methods, ("a",), repeats=3)
    rates = sorted(r.rate or 0 for r in results.of("a", "other"))
    assert rates == pytest.approx([1, 10, 10])
    assert table(results, methods)["other"]["tokens_per_second"] == pytest.approx(10)


def test_drift_of_the_machine_affects_all_methods_equally():
    clock = Clock()
    methods = [FakeMethod(name, clock) for name in (REFERENCE, "other", "third")]

    def slower(item: str) -> None:
        for method in methods:
            method.rate *= 0.98

    for method in methods:
        method.on_call = slower
    found = table(measured(methods, tuple("abcdef"), repeats=3), methods)
    assert found["other"]["speedup"] == pytest.approx(1, abs=0.03)
    assert found["third"]["speedup"] == pytest.approx(1, abs=0.03)


def test_methods_are_given_the_repeat_and_a_warm_up_of_its_own():
    methods = two()
    measured(methods, ("a", "b"), repeats=2)
    assert [method.repeats for method in methods] == [[-1, 0, 1, 0, 1]] * 2


def test_methods_take_turns():
    plan = Plan(items("a", "b"), tuple(two()), REFERENCE, 2)
    firsts = [plan.order(item, repeat)[0].name for item in (0, 1) for repeat in (0, 1)]
    assert firsts == [REFERENCE, "other", "other", REFERENCE]


@pytest.mark.parametrize(
    ("spoil", "position", "expected", "got"),
    [
        (lambda tokens: tokens[:-1], 10, END, None),
        (lambda tokens: (*tokens[:4], 77, *tokens[5:]), 4, 5, 77),
        (lambda tokens: (*tokens[:2], *tokens[3:]), 2, 3, 4),
    ],
    ids=["the last token dropped", "one token changed", "one token dropped inside"],
)
def test_a_text_that_differs_is_reported_with_its_position(spoil, position, expected, got):
    methods = two(spoil=spoil)
    results = measured(methods)
    found = table(results, methods)["other"]
    assert (found["items"], found["exact"], found["compared"]) == (3, 0, 3)
    first = found["differences"][0]
    assert (first["item"], first["position"]) == ("a", position)
    assert (first["expected"], first["got"], first["margin"]) == (expected, got, 0.25)
    assert table(results, methods)[REFERENCE]["exact"] == 3


def test_a_text_that_cannot_be_compared_is_neither_exact_nor_different():
    methods = two(spoil=lambda tokens: (*tokens[:4], 77), comparable=False)
    results = measured(methods)
    found = table(results, methods)["other"]
    assert (found["comparable"], found["exact"], found["compared"]) == (False, 0, 0)
    assert not found["differences"] and not results.differences
    assert found["timed_items"] == 3 and found["speedup"] is not None
    assert table(results, methods, least=6)["other"]["timed_items"] == 0, "by its own length"
    assert table(results, methods)[REFERENCE]["comparable"]


def test_a_repeat_that_differs_is_reported():
    methods = two()
    turns = iter([False, False, True])

    def sometimes(tokens):
        return (*tokens[:3], 55, *tokens[4:]) if next(turns) else tokens

    methods[1].spoil = sometimes
    found = table(measured(methods, ("a",), repeats=2), methods)["other"]
    assert (found["exact"], found["differences"][0]["position"]) == (0, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"spoil": lambda tokens: (*tokens, 3)}, "1 tokens behind the end token"),
        ({"spoil": lambda tokens: tokens[:-1] * 9}, "with max_new_tokens 64"),
        ({"spoil": lambda tokens: ()}, "1 first tokens of 0"),
        (
            {"counts": lambda counts: replace(counts, steps=counts.steps - 1)},
            "not one accepted length for each step",
        ),
        ({"counts": lambda counts: replace(counts, steps=5, accepted={1: 5, 0: 0})}, None),
        (
            {"counts": lambda counts: replace(counts, steps=5, accepted={2: 5})},
            "15 tokens by its steps",
        ),
        (
            {"counts": lambda counts: replace(counts, steps=4, accepted={1: 4})},
            "8 tokens by its steps",
        ),
    ],
)
def test_a_method_that_miscounts_is_not_measured(wrong, message):
    methods = two(**wrong)
    results = measured(methods, ("a",))
    failures = [failure for failure in results.failures if failure.method == "other"]
    if message is None:  # five steps of two tokens are ten: nothing wrong
        assert not failures
    else:
        assert [failure.kind for failure in failures] == ["other"]
        assert message in failures[0].message
        assert table(results, methods)["other"]["items"] == 0


def test_failing_items_are_listed_and_do_not_stop_the_rest():
    methods = two(fail=("b",))
    results = measured(methods, ("a", "b", "bad", "c"))
    assert [(f.item, f.method, f.kind) for f in results.failures] == [
        ("b", "other", "memory"),
        ("bad", "", "input"),
    ]
    found = table(results, methods)
    assert (found[REFERENCE]["items"], found["other"]["items"]) == (3, 2)
    assert (found[REFERENCE]["failed"], found["other"]["failed"]) == (1, 2)
    assert found["other"]["speedup"] == pytest.approx(1)


def test_a_reference_that_fails_leaves_nothing_to_compare_with():
    methods = two()
    methods[0].fail = ("a",)
    found = table(measured(methods, ("a",)), methods)["other"]
    assert (found["items"], found["compared"], found["speedup"]) == (1, 0, None)
    assert found["tokens_per_second"] == pytest.approx(10)


def test_short_texts_are_compared_but_not_timed():
    methods = two()
    results = measured(methods, ("short", "a"), texts={"short": (1, 2)})
    found = table(results, methods, least=8)["other"]
    assert (found["items"], found["timed_items"], found["exact"]) == (2, 1, 2)


def test_a_text_that_the_prefill_ended_has_no_rate():
    methods = two()
    found = table(measured(methods, ("a",), texts={"a": ()}), methods)["other"]
    assert (found["items"], found["exact"], found["tokens_per_second"]) == (1, 1, None)


def test_later_turns_have_the_reference_s_answers_in_their_history():
    clock = Clock()
    methods = (FakeMethod("other", clock, spoil=lambda t: t[:3]), FakeMethod(REFERENCE, clock))
    engine = FakeEngine(clock, {"talk#1": (4, 5)})
    talk = Item("talk", Files(("x",)), ("First?", "Second?", "Third?"), "turns", (("Old", "yes"),))
    for _ in Measurement(Plan((talk,), methods, REFERENCE), engine).lines():
        pass
    assert [request.id for request in engine.prepared] == ["talk#1", "talk#2", "talk#3"]
    assert engine.prepared[1].history == (("Old", "yes"), ("First?", f"4 5 {END}"))
    assert [said for said, _ in engine.prepared[2].history] == ["Old", "First?", "Second?"]


def test_turns_after_a_failed_answer_are_listed():
    methods = two()
    methods[0].fail = ("talk#1",)
    talk = Item("talk", Files(("x",)), ("First?", "Second?"))
    plan = Plan((talk, *items("a")), tuple(methods), REFERENCE)
    lines = list(Measurement(plan, FakeEngine(methods[0].clock)).lines())
    failed = [line.item for line in lines if isinstance(line, Failure)]
    assert failed == ["talk#1", "talk#2"]
    assert any(isinstance(line, Record) and line.item == "a" for line in lines)


def test_an_interrupted_run_is_resumed(tmp_path: Path):
    class Killed(BaseException):
        pass

    plan = {"items": 3}
    store = Store(tmp_path / "out", plan)
    methods = two(spoil=lambda tokens: tokens[:-1])
    done: list[str] = []

    def kill(item: str) -> None:
        if len(done) == 4:
            raise Killed
        done.append(item)

    for method in methods:
        method.on_call = kill
    whole = Plan(items("a", "b", "c"), tuple(methods), REFERENCE)
    measurement = Measurement(whole, FakeEngine(methods[0].clock), store.results)
    with pytest.raises(Killed):
        for line in measurement.lines():
            store.add(line)
    store.close()
    with (tmp_path / "out" / LINES).open("a") as file:
        file.write('{"line": "run", "item": "b", "me')  # what was being written

    again = Store(tmp_path / "out", plan)
    assert again.resumed and len(again.results.records) == 2
    before = dict(again.results.records)
    methods = two(spoil=lambda tokens: tokens[:-1])
    measurement = Measurement(
        replace(whole, methods=tuple(methods)), FakeEngine(methods[0].clock), again.results
    )
    for line in measurement.lines():
        again.add(line)
    again.close()
    assert methods[0].calls == ["b", "b", "c"], "b for the warm-up too, and nothing twice"
    third = Store(tmp_path / "out", plan).results
    assert len(third.records) == 6
    assert all(third.records[key] == record for key, record in before.items())
    assert len(third.differences) == 3
    found = table(third, methods)["other"]
    assert (found["items"], found["exact"], found["speedup"]) == (3, 0, pytest.approx(1))


def test_lines_are_replaced_whole_and_never_rewritten(tmp_path: Path):
    plan = {"schema": 1}
    store = Store(tmp_path / "out", plan)
    store.add(Failure("a", "chain", 0, "input", "damaged"))
    store.close()
    path = tmp_path / "out" / LINES
    whole = path.read_bytes()
    for torn in (b'{"line": "fail', b"\xe2\x80", b"{}"):
        path.write_bytes(whole + torn)
        with path.open("rb") as before:
            Store(tmp_path / "out", plan).close()
            assert before.read() == whole + torn, "who reads it still has the older file"
        assert path.read_bytes() == whole
    path.write_bytes(whole.rstrip(b"\n"))
    Store(tmp_path / "out", plan).close()
    assert path.read_bytes() == whole


def test_failures_are_measured_again(tmp_path: Path):
    methods = two(fail=("a",))
    results = measured(methods, ("a",))
    assert len(results.failures) == 1
    methods[1].fail = ()
    assert not measured(methods, ("a",), results=results).failures


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda folder: Store(folder, {"items": 4}).close(), OptionError, "other items"),
        (lambda folder: (folder / LINES).write_text("[]\n{}\n"), InputError, "not a line"),
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path: Path, make, error, says):
    folder = tmp_path / "out"
    if error is InputError:
        Store(folder, {"items": 3}).close()
    make(folder)
    with pytest.raises(error, match=says):
        Store(folder, {"items": 3})


def test_a_folder_with_other_files_is_refused(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match="holds other files"):
        Store(tmp_path, {})
    assert (tmp_path / "mine.txt").read_text() == "mine"

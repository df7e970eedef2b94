"""Comparison of two runs: what has changed, and what is noise."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sage_core.bench.compare import compare
from sage_core.bench.measure import Measurement, Plan
from sage_core.bench.summary import summary
from sage_core.errors import InputError, OptionError
from tests.core.bench_fake import Clock, FakeEngine, FakeMethod, items


def report(rates: dict[str, float], **other: Any) -> dict[str, Any]:
    """Of a run over twelve items; the rate of a method varies with the item."""
    clock = Clock()
    names = [f"item{i}" for i in range(12)]
    tried = [
        FakeMethod(
            name, clock, rates={n: rate * (1 + i / 20) for i, n in enumerate(names)}, **other
        )
        for name, rate in rates.items()
    ]
    measurement = Measurement(
        Plan(items(*names), tuple(tried), "autoregressive"), FakeEngine(clock)
    )
    for _ in measurement.lines():
        pass
    figures = summary(measurement.results, list(rates), "autoregressive")
    return {"reference": "autoregressive", **figures}


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[tuple[str, str], bool]:
    return {(c["method"], c["figure"]): c["changed"] for c in compare(before, after)["changes"]}


def test_the_same_run_twice_has_not_changed():
    once = report({"autoregressive": 10.0, "sage": 25.0}, accepted=2)
    found = compare(once, copy.deepcopy(once))
    assert not any(change["changed"] for change in found["changes"])
    assert {change["ratio"] for change in found["changes"]} == {1.0}
    assert found["texts"] == [] and found["items"] == 12


def test_a_slower_machine_does_not_change_the_speedup():
    found = changes(
        report({"autoregressive": 10.0, "sage": 25.0}),
        report({"autoregressive": 5.0, "sage": 12.5}),
    )
    assert found["sage", "tokens_per_second"] is True
    assert found["sage", "speedup"] is False


def test_a_faster_method_is_reported():
    before = report({"autoregressive": 10.0, "sage": 25.0})
    after = report({"autoregressive": 10.0, "sage": 28.0})
    found = changes(before, after)
    assert found["sage", "speedup"] is True and found["autoregressive", "speedup"] is False
    one = next(c for c in compare(before, after)["changes"] if c["method"] == "sage")
    assert one["ratio"] == pytest.approx(28 / 25)


def test_noise_between_items_is_not_a_change():
    before = report({"autoregressive": 10.0, "sage": 25.0})
    after = copy.deepcopy(before)
    for i, item in enumerate(after["items"]):
        item["methods"]["sage"]["rate"] *= 1.2 if i % 2 else 0.85
    assert changes(before, after)["sage", "tokens_per_second"] is False


def test_a_text_that_is_no_longer_exact_is_reported():
    before = report({"autoregressive": 10.0, "sage": 25.0})
    after = copy.deepcopy(before)
    after["items"][3]["methods"]["sage"]["exact"] = False
    assert compare(before, after)["texts"] == [
        {"method": "sage", "item": "item3", "before": True, "after": False}
    ]
    after["items"][3]["methods"]["sage"]["exact"] = None
    assert compare(before, after)["texts"] == [], "an interrupted run compared nothing there"


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"reference": "static"}, OptionError, "different references"),
        ({"items": []}, OptionError, "share no item"),
        ({"methods": []}, OptionError, "share no method"),
        ({"methods": None}, InputError, "not a report"),
    ],
)
def test_runs_that_cannot_be_compared(change, error, says):
    before = report({"autoregressive": 10.0})
    with pytest.raises(error, match=says):
        compare(before, {**before, **change})

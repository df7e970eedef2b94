"""The speed report: known timings give the known table; what differs from `generate` is counted."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.policies import GENERATE, Method, Timing, report
from sage_core.engine.results import Stats
from sage_core.trees.steps import PhaseSeconds


def _method(name: str, times: list[list[float]], **stats: Any) -> Method:
    """Five new tokens an item, in the given seconds for each item's repeats."""
    counted = Stats(**stats) if stats else None
    tokens = (1, 2, 3, 4, 5)
    return Method(name, [[Timing(tokens, s, counted) for s in item] for item in times])


@pytest.fixture
def methods() -> list[Method]:
    return [
        _method(GENERATE, [[4.0], [8.0], [4.0]]),
        _method("autoregressive", [[2.0], [4.0], [2.0]], steps=4, accepted_histogram={0: 4}),
        _method(
            "sage",
            [[1.0, 9.0, 1.0], [1.0, 1.0, 9.0], [4.0, 4.0, 4.0]],
            steps=2,
            accepted_histogram={1: 1, 2: 1},
            nodes_verified=20,
            draft_passes=6,
            seconds=PhaseSeconds(draft=1.0, verify=3.0),
        ),
    ]


def test_rates_and_ratios_are_medians_of_items(methods: list[Method]) -> None:
    generate, engine, sage = methods
    assert generate.rates() == [1.0, 0.5, 1.0]
    assert sage.rates() == [4.0, 4.0, 1.0], "an item's rate is the median of its repeats"
    summary = sage.summary(engine, generate)
    assert summary["tokens_per_second"] == 4.0
    assert summary["speedup_over_autoregressive"] == 2.0  # of 2, 4 and 0.5
    assert summary["worst_item_speedup_over_autoregressive"] == 0.5
    assert summary["speedup_over_generate"] == 4.0  # of 4, 8 and 1


def test_counts_are_totals_per_step(methods: list[Method]) -> None:
    generate, engine, sage = methods
    summary = sage.summary(engine, generate)
    assert summary["mean_accepted"] == 1.5
    assert summary["nodes_per_step"] == 10.0
    assert summary["draft_passes_per_step"] == 3.0
    assert summary["seconds"]["verify"] == 9.0
    assert generate.summary(engine, generate)["mean_accepted"] is None


def test_an_item_with_one_differing_repeat_is_not_exact(methods: list[Method]) -> None:
    generate, engine, sage = methods
    assert sage.summary(engine, generate)["exact"] == 3
    sage.timings[1][2] = Timing((1, 2, 3, 4), 1.0, sage.timings[1][2].stats)
    assert sage.summary(engine, generate)["exact"] == 2


def test_the_table(methods: list[Method]) -> None:
    environment = {"date": "D", "command": "C", "cpu": "X", "cores": 2, "threads": 1}
    data = {
        "environment": environment | {"python": "3.11", "versions": {"torch": "2"}},
        "target": "T",
        "draft": "S",
        "device": "cpu",
        "dtype": "float32",
        "items": 3,
        "repeats": 3,
        "new_tokens": 15,
        "max_new_tokens": 256,
        "methods": [method.summary(methods[1], methods[0]) for method in methods],
    }
    lines = report(data).splitlines()
    assert "| transformers generate | 1.0 | 0.50 | 0.50 | 1.00 | – | – | – | 3/3 |" in lines
    assert "| sage | 4.0 | 2.00 | 0.50 | 4.00 | 1.50 | 10.00 | 3.00 | 3/3 |" in lines
    assert "| sage | 25.0% | 0.0% | 75.0% | 0.0% | 0.0% |" in lines

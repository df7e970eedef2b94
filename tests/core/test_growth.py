"""Time against generated length: the windows, and that all methods write one text."""

from __future__ import annotations

import pytest
from benchmarks.growth_length import METHODS, measure, report, windows
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import environment
from sage_core.pair_loading import load_pair


@given(st.lists(st.integers(1, 9), min_size=4, max_size=40), st.floats(0.001, 1))
def test_a_steady_rate_is_the_same_in_every_window(steps: list[int], seconds: float) -> None:
    clock, count = [(1, 5.0)], 1
    for tokens in steps:
        count += tokens
        clock.append((count, 5.0 + (count - 1) * seconds))
    ends = [clock[1][0], clock[-1][0]]
    assert windows(clock, ends) == pytest.approx([1e3 * seconds] * 2)


def test_every_method_writes_one_text() -> None:
    rows = measure(load_pair(draft="sage-tiny-draft"), [4, 12], repeats=1)
    assert [row["method"] for row in rows] == list(METHODS)
    assert all(row["exact"] and min(row["ms_per_token"]) > 0 for row in rows)
    known = environment.describe("benchmarks.growth_length")
    data = {"environment": known, "pair": "p", "device": "cpu", "dtype": "float32"}
    text = report({**data, "ends": [4, 12], "repeats": 1, "rows": rows})
    assert "| new tokens | 2 to 4 | 5 to 12 |" in text
    assert text.count("| yes |") == len(METHODS)

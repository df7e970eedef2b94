"""The benchmarks' harness: known timings give the known figures; what differs is counted."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import harness, policies, regression
from benchmarks.harness import GENERATE, Decoded, Tally
from sage_core.engine.results import Stats
from sage_core.trees.steps import PhaseSeconds

TOKENS = (1, 2, 3, 4, 5)


def _texts(times: list[list[float]], **stats: Any) -> list[list[Decoded]]:
    """Five new tokens an item, in the given seconds for each item's repeats."""
    counted = Stats(**stats) if stats else None
    return [[Decoded(TOKENS, s, counted) for s in item] for item in times]


def _tally(texts: list[list[Decoded]], least: int = 2) -> Tally:
    tally = Tally()
    for repeats in texts:
        tally.add(repeats, TOKENS, least)
    return tally


@pytest.fixture
def texts() -> dict[str, list[list[Decoded]]]:
    return {
        GENERATE: _texts([[4.0], [8.0], [4.0]]),
        "autoregressive": _texts([[2.0], [4.0], [2.0]], steps=4, accepted_histogram={0: 4}),
        "sage": _texts(
            [[1.0, 9.0, 1.0], [1.0, 1.0, 9.0], [4.0, 4.0, 4.0]],
            steps=2,
            accepted_histogram={1: 1, 2: 1},
            nodes_verified=20,
            draft_passes=6,
            seconds=PhaseSeconds(draft=1.0, verify=3.0),
        ),
    }


def test_rates_and_speedups_are_medians_over_texts(texts: Any) -> None:
    tallies = {name: _tally(each) for name, each in texts.items()}
    assert tallies[GENERATE].rates == [1.0, 0.5, 1.0]
    assert tallies["sage"].rates == [4.0, 4.0, 1.0], "a text's rate is the median of its repeats"
    found = harness.figures(tallies, "autoregressive")["sage"]
    assert found["tokens_per_second"] == 4.0
    assert found["speedup"] == 2.0  # of 2, 4 and 0.5
    assert found["worst_speedup"] == 0.5
    assert harness.figures(tallies)["sage"]["speedup"] == 4.0  # of 4, 8 and 1


def test_counts_are_totals_per_step(texts: Any) -> None:
    found = _tally(texts["sage"]).figures(_tally(texts["sage"]))
    assert (found["mean_accepted"], found["mean_acceptance_length"]) == (1.5, 2.5)
    assert (found["nodes_per_step"], found["draft_passes_per_step"]) == (10.0, 3.0)
    assert found["seconds"]["verify"] == 9.0
    assert (found["texts"], found["exact"], found["new_tokens"]) == (3, 3, 15)
    assert _tally(texts[GENERATE]).figures(_tally(texts[GENERATE]))["mean_accepted"] is None


def test_a_text_with_one_differing_repeat_is_not_exact(texts: Any) -> None:
    texts["sage"][1][2] = Decoded((1, 2, 3, 4), 1.0)
    found = _tally(texts["sage"]).figures(_tally(texts["sage"]))
    assert found["exact"] == 2 and not harness.all_exact([found])


def test_short_texts_are_compared_and_not_timed(texts: Any) -> None:
    tally = _tally(texts["sage"], least=6)
    assert tally.rates == [None] * 3 and tally.counts["exact"] == 3
    assert tally.figures(tally)["speedup"] is None


def test_a_script_s_own_counts_are_summed() -> None:
    tally = Tally()
    for right in (2, 3):
        tally.add([Decoded(TOKENS, 1.0)], TOKENS, facts_right=right)
    assert tally.figures(tally)["facts_right"] == 5


def test_methods_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    methods = {name: lambda text, name=name: calls.append(f"{name}{text}") or name for name in "ab"}
    found = list(harness.interleaved([1, 2], methods, repeats=2))
    assert calls == ["a1", "b1", "a1", "b1", "b1", "a1", "b2", "a2", "a2", "b2"]
    assert found[1] == (2, {"a": ["a", "a"], "b": ["b", "b"]})


def test_options_are_declared_by_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    parser = harness.options("Title.\n\nMore.", pair=False, items=3, widths=(1, 2), names=("a",))
    assert parser.parse_args([]).widths == (1, 2)
    asked = parser.parse_args(["--widths", "4,8", "--names", "x:a=1,b=2;y", "--items", "5"])
    assert (asked.widths, asked.names, asked.items) == ((4, 8), ("x:a=1,b=2", "y"), 5)
    with pytest.raises(SystemExit):
        parser.parse_args(["--widths", "wide"])
    assert "--widths" in capsys.readouterr().err


def test_the_report_of_policies(texts: Any) -> None:
    environment = {"date": "D", "command": "C", "cpu": "X", "cores": 2, "threads": 1}
    tallies = {name: _tally(each) for name, each in texts.items()}
    data = {
        "environment": environment | {"python": "3.11", "versions": {"torch": "2"}},
        **{"target": "T", "draft": "S", "device": "cpu", "dtype": "float32"},
        **{"repeats": 3, "max_new_tokens": 256, "methods": policies.summaries(tallies)},
    }
    lines = policies.report(data).splitlines()
    assert "- pair: T with S; cpu, float32" in lines
    assert "| transformers generate | 1.0 | 0.50 | 0.50 | 1.00 | – | – | – | 3/3 |" in lines
    assert "| sage | 4.0 | 2.00 | 0.50 | 4.00 | 1.50 (2.50) | 10.0 | 3.00 | 3/3 |" in lines


def test_a_regression_is_the_median_over_prompts_of_the_best_rounds() -> None:
    def one(tokens: list[float], first: float, text: str = "x") -> dict[str, Any]:
        return {f"sage {i}": [s, first, text] for i, s in enumerate([9.0, *tokens])}

    base = [one([0.2, 0.4, 0.1], 3.0), one([0.9, 0.3, 0.1], 2.0)]  # best: 0.2, 0.3, 0.1
    change = [one([0.1, 0.3, 0.2], 1.0), one([0.1, 0.3, 0.2], 1.0, "y")]
    (row,) = regression.rows(["sage"], base, change)
    assert row["ratio"] == 1.0  # of 2, 1 and 0.5
    assert row["tokens_per_second"] == pytest.approx([5.0, 5.0])
    assert (row["first_token"], row["first_token_ratio"]) == ([2.0, 1.0], 0.5)
    assert row["cold_first_token"] == [3.0, 1.0] and row["same_text"]
    assert not regression.rows(["sage"], base, change[1:])[0]["same_text"]

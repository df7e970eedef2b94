"""The arithmetic behind the evidence: series, bins, bounds, lengths, shares, with known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.evidence.__main__ import PARTS, parse_arguments
from benchmarks.evidence.bench import descriptions
from benchmarks.evidence.calibrated import (
    confidence_needed,
    confidence_published,
    corrected,
    counterexample,
    lemma,
    observed,
    ranks,
)
from benchmarks.evidence.entropy import foresight, right_ahead
from benchmarks.evidence.lengths import Reach, reached, repeated
from benchmarks.evidence.recording import K, Recording
from benchmarks.evidence.series import (
    autocorrelation,
    binned,
    calibration_error,
    correlation,
    ratio_of_sums,
)
from benchmarks.evidence.speed import OPERATIONS, RULE, beside, shares, variants
from benchmarks.harness import number, percent, span, table
from sage_core.trees.policies import parse
from sage_core.trees.policies.sage_paper import confidence
from sage_core.trees.steps import Step
from sage_core.trees.tree import TokenTree

# Autocorrelation


def _remembering(memory: float, length: int, seed: int) -> np.ndarray:
    """A first-order autoregressive series, whose autocorrelation at lag k is memory ** k."""
    rng = np.random.default_rng(seed)
    values = [rng.normal() / np.sqrt(1 - memory**2)]
    for noise in rng.normal(size=length - 1):
        values.append(memory * values[-1] + noise)
    return np.array(values)


def test_the_autocorrelation_of_a_known_series():
    found = autocorrelation([_remembering(0.8, 3000, seed) for seed in range(4)], 4)
    for lag in found:
        assert lag.value == pytest.approx(0.8**lag.lag, abs=0.06)
        assert lag.interval[0] <= lag.value <= lag.interval[1]
        assert lag.value > lag.chance[1], "no chance"
    assert [lag.pairs for lag in found] == [4 * (3000 - k) for k in range(1, 5)]


def test_what_turns_every_time_is_its_own_opposite():
    found = autocorrelation([np.array([1.0, -1.0] * 20)], 2)
    assert [lag.value for lag in found] == pytest.approx([-1, 1])


def test_noise_lies_within_chance():
    rng = np.random.default_rng(2)
    found = autocorrelation([rng.normal(size=40) for _ in range(30)], 20)
    inside = sum(lag.chance[0] <= lag.value <= lag.chance[1] for lag in found)
    assert inside >= 16
    middle = np.mean([sum(lag.chance) / 2 for lag in found])
    assert middle == pytest.approx(-1 / 40, abs=0.01), "short texts lean below zero, chance too"


def test_hard_and_easy_texts_are_no_memory_unless_one_mean_is_taken():
    rng = np.random.default_rng(3)
    texts = [level + rng.normal(size=200) for level in (-5, 5)]
    assert abs(autocorrelation(texts, 1)[0].value) < 0.15
    assert autocorrelation(texts, 1, own_means=False)[0].value > 0.9


@pytest.mark.parametrize(
    ("series", "lags", "says"),
    [
        ([np.array([1.0, 2.0])], 2, "long enough"),
        ([], 1, "long enough"),
        ([np.ones(9)], 1, "never change"),
    ],
)
def test_series_that_tell_nothing(series: list[np.ndarray], lags: int, says: str):
    with pytest.raises(ValueError, match=says):
        autocorrelation(series, lags)


def test_correlation_is_of_all_pairs_together():
    rng = np.random.default_rng(4)
    texts = [(x, 2 * x + rng.normal(size=len(x))) for x in (rng.normal(size=n) for n in (30, 50))]
    value, (low, high) = correlation(texts)
    x, y = (np.concatenate(parts) for parts in zip(*texts, strict=True))
    assert value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert low <= value <= high
    with pytest.raises(ValueError, match="never change"):
        correlation([(np.ones(4), np.arange(4.0))])
    with pytest.raises(ValueError, match="cannot be paired"):
        correlation([(np.ones(4), np.ones(3))])


def test_a_ratio_of_sums_is_no_mean_of_ratios():
    value, low, high = ratio_of_sums(np.array([[1.0], [90.0]]), np.array([[1.0], [100.0]]))
    assert value[0] == pytest.approx(91 / 101)
    assert low[0] == pytest.approx(0.9) and high[0] == 1.0


# Bins


def test_bins_hold_their_lower_end_and_the_last_its_upper():
    values = np.array([0.0, 0.1, 0.5, 0.5, 1.0])
    found = binned([(values, np.array([False, True, True, False, True]))], (0, 0.5, 1))
    assert [(b.low, b.high, b.count, b.rate) for b in found] == [
        (0, 0.5, 2, 0.5),
        (0.5, 1, 3, 2 / 3),
    ]
    assert found[0].mean == pytest.approx(0.05)


def test_bins_that_hold_nothing_are_left_out():
    found = binned([(np.array([0.9]), np.array([True]))], (0, 0.5, 1))
    assert [b.low for b in found] == [0.5]


def test_the_calibration_error_weighs_by_count():
    texts = [(np.array([0.2] * 8 + [0.9] * 2), np.array([True] * 4 + [False] * 4 + [True] * 2))]
    error = calibration_error(binned(texts, (0, 0.5, 1)))
    assert error == pytest.approx((8 * 0.3 + 2 * 0.1) / 10)


def test_the_interval_is_over_texts():
    same = [(np.array([0.3, 0.4]), np.array([True, False]))] * 5
    assert binned(same, (0, 1))[0].interval == (0.5, 0.5)
    unlike = [(np.array([0.3]), np.array([hit])) for hit in (True, False, True, False)]
    low, high = binned(unlike, (0, 1))[0].interval
    assert low == 0 and high == 1


@pytest.mark.parametrize(
    ("values", "edges", "says"),
    [
        ([0.5], (0,), "edges"),
        ([0.5], (0, 1, 1), "edges"),
        ([1.5], (0, 1), "outside"),
        ([-0.5], (0, 1), "outside"),
        ([0.5, 0.5], (0, 1), "outcomes"),
    ],
)
def test_bins_that_cannot_be(values: list[float], edges: tuple[float, ...], says: str):
    with pytest.raises(ValueError, match=says):
        binned([(np.array(values), np.array([True]))], edges)
    with pytest.raises(ValueError, match="nothing was counted"):
        calibration_error([])


# Bounds


def test_the_counterexample_to_the_lemma():
    found = counterexample()
    assert found["alpha"] == pytest.approx(confidence(np.array([0.5, 0.5] + [0.0] * 8)))
    assert found["alpha"] == pytest.approx(0.699, abs=5e-4)
    assert found["lemma"] == pytest.approx(0.729, abs=5e-4), "the lemma promises this"
    assert found["first"] == 0.5 < found["lemma"]
    assert found["corrected"] == pytest.approx(0.5), "where two are equal the bound is met"


def test_the_corrected_bound_holds_where_the_lemma_does_not():
    rng = np.random.default_rng(6)
    drawn = rng.dirichlet(np.full(K, 0.3), size=2000)
    alpha = np.array([confidence(row) for row in drawn])
    first = drawn.max(axis=1)
    assert (first >= corrected(alpha, K) - 1e-9).all()
    assert (first < lemma(alpha, K) - 1e-9).any()


def test_the_confidence_that_is_needed():
    assert confidence_needed(0.6, 10) == pytest.approx(0.778, abs=5e-4)
    assert confidence_published(0.6, 10) == pytest.approx(0.556, abs=5e-4)
    assert corrected(confidence_needed(0.6, 10), 10) == pytest.approx(0.6)
    assert lemma(confidence_published(0.6, 10), 10) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="probability"):
        confidence_needed(0.05, 10)


def test_what_is_seen_at_the_places_that_are_taken():
    found = observed(
        taken=np.array([True, True, True, False]),
        first=np.array([0.9, 0.7, 0.5, 0.1]),
        whole=np.array([0.9, 0.55, 0.5, 0.1]),
        right=np.array([True, True, False, False]),
        gaps=np.array([0.01, 0.02, 0.4, 0.0]),
    )
    assert found["places"] == 3 and found["share"] == 0.75
    assert found["least_first"] == 0.5
    assert found["first_below"] == pytest.approx(1 / 3)
    assert found["whole_below"] == pytest.approx(2 / 3)
    assert found["accepted"] == pytest.approx(2 / 3)
    assert found["accepted_close"] == 1.0 and found["accepted_apart"] == 0.0
    nothing = np.zeros(2, dtype=bool)
    assert observed(nothing, *[np.zeros(2)] * 2, nothing, np.zeros(2)) == {"places": 0}


# Recordings


def _step(index: int, tokens: int) -> Step:
    """A step that commits so many tokens; all but the last were drafted."""
    drafted = tokens - 1
    tree = TokenTree(
        tuple(range(drafted)), tuple(range(-1, drafted - 1)), (0.9,) * drafted, (0,) * drafted
    )
    return Step(index, 0, tree, tuple(range(drafted)), tuple(range(tokens)))


def _recording(ranks: list[int], sizes: list[int], probs: Any = None) -> Recording:
    n = len(ranks)
    rows = np.full((n, K), 1 / K) if probs is None else np.array(probs)
    steps = tuple(_step(i, size) for i, size in enumerate(sizes, 1))
    return Recording("x", tuple(range(n + 1)), rows, np.array(ranks), np.zeros(n), steps)


def test_a_recording_knows_where_its_steps_begin():
    one = _recording([0] * 6, [3, 1, 2])
    assert one.roots.tolist() == [0, 3, 4], "the first token is the prefill's"
    assert one.accepted.tolist() == [2, 0, 1]
    assert one.entropy == pytest.approx([np.log(K)] * 6)
    assert one.alpha == pytest.approx([0] * 6)


def test_right_choices_in_a_row():
    right = np.array([True, True, False, True, True, True, False])
    assert right_ahead(right, 3).tolist() == [2, 1, 0, 3, 2]
    assert right_ahead(right[:2], 3).tolist() == []


def test_foresight_finds_the_distribution_that_tells():
    """Where α of a root says all about what follows, its own beats the one before."""
    rng = np.random.default_rng(8)
    sure, unsure = [0.91] + [0.01] * 9, [0.1] * 10
    found = []
    for _ in range(12):
        ranks = rng.integers(0, 2, 80).tolist()
        probs = [unsure if rank else sure for rank in ranks]
        found.append(_recording(ranks, [1, 2] * 26, probs))
    told = {name: value for name, (value, _) in foresight(found).items()}
    assert told["α of this step's own root"] > 0.5
    assert abs(told["α of the step before, as published"]) < 0.2


def test_the_share_of_each_rank():
    probs = [[0.5, 0.3] + [0.025] * 8] * 4
    found = ranks([_recording([0, 0, 1, 12], [4], probs)])
    assert [row["rate"] for row in found[:3]] == [0.5, 0.25, 0.0]
    assert found[1]["probability"] == pytest.approx(0.3)


# Lengths and shares


def test_totals_when_a_length_is_reached():
    steps = [Step(0, -1, TokenTree(), (), (1,)), _step(1, 4), _step(2, 3), _step(3, 9)]
    assert reached(steps, [0.0, 1.0, 2.0, 3.0], (5, 6, 8, 99)) == [
        Reach(5, 1, 3, 1.0),
        Reach(8, 2, 5, 2.0),
        Reach(8, 2, 5, 2.0),
    ]


def test_repeated_runs():
    assert repeated([1, 2, 3, 4] * 3, 4, 12, size=4) == 1.0
    assert repeated([1, 2, 3, 4] * 3, 0, 4, size=4) == 0.0
    assert repeated(range(20), 0, 20, size=4) == 0.0
    assert repeated([1, 2], 0, 2, size=4) == 0.0


def test_shares_add_up_to_the_wall():
    held = dict.fromkeys(OPERATIONS, 1.0)
    found = shares({**held, "prefill": 4.0, "decode": 6.0})
    assert found["verify"] == 0.1
    assert found["rest"] == pytest.approx(0.3)
    assert sum(found.values()) == pytest.approx(1)
    with pytest.raises(ValueError, match="operations took"):
        shares({**held, "prefill": 1.0, "decode": 1.0})
    with pytest.raises(ValueError, match="no time"):
        shares({**dict.fromkeys(OPERATIONS, 0.0), "prefill": 0.0, "decode": 0.0})


def test_one_method_beside_another_leaves_out_what_either_did_not_time():
    def item(**rates: float | None) -> dict[str, Any]:
        return {"methods": {name: {"rate": rate} for name, rate in rates.items()}}

    data = {"items": [item(a=30.0, b=10.0), item(a=60.0, b=20.0), item(a=1.0, b=None), item(b=9.0)]}
    ratio, interval = beside(data, "a", "b")
    assert ratio == 3.0 and interval == pytest.approx((3.0, 3.0))


# Ablation, texts and the command


def test_every_variant_is_a_policy_and_each_another():
    parsed = [parse(spec) for spec in variants()]
    assert len(set(parsed)) == len(parsed)
    assert variants()[0] == RULE


def test_texts_describe_and_repeat_with_their_seed():
    def first(seed: int) -> list[str]:
        stream = descriptions(seed)
        return [next(stream).id for _ in range(6)]

    assert first(0) == first(0) != first(1)
    assert not any(name.startswith(("counting", "turns")) for name in first(0))


def test_tables():
    assert table(["a", "b"], [["x", 1]]) == ["| a | b |", "|---|--:|", "| x | 1 |"]
    assert (number(None), percent(0.125), span((1, 2), 1)) == ("–", "12.5%", "1.0 to 2.0")


def test_the_command_refuses_parts_that_are_not_there(capsys: pytest.CaptureFixture[str]):
    assert parse_arguments([]).only == tuple(PARTS)
    assert parse_arguments(["--only", "entropy,shares"]).only == ("entropy", "shares")
    with pytest.raises(SystemExit):
        parse_arguments(["--only", "figure9"])
    assert "no part 'figure9'" in capsys.readouterr().err

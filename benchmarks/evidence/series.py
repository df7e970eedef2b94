"""Autocorrelation, correlation and calibration bins, with bootstrap intervals over texts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sage_core.bench.statistics import LEVEL, RESAMPLES

__all__ = [
    "Bin",
    "Lag",
    "autocorrelation",
    "binned",
    "calibration_error",
    "correlation",
    "ratio_of_sums",
]

_SHUFFLES = 200


@dataclass(frozen=True)
class Lag:
    """The autocorrelation at one lag, with its 95% interval over texts.

    ``chance`` is the 95% range of the same figure when every text's values are shuffled.
    """

    lag: int
    value: float
    interval: tuple[float, float]
    chance: tuple[float, float]
    pairs: int


def autocorrelation(
    series: Sequence[np.ndarray], lags: int, seed: int = 0, *, own_means: bool = True
) -> list[Lag]:
    """The autocorrelation at lags 1 to ``lags``.

    With ``own_means`` each text's own mean is subtracted first, so that texts which are hard
    throughout do not count as correlated; otherwise the mean of all. The covariance at a lag is
    the mean over all pairs of all texts, divided by the mean square. For short texts it is biased
    below zero by about one over their length; the range of chance has the same bias.

    Args:
        series: one array (n,) for each text; texts of one value are left out.
        lags: the greatest lag.
        seed: of the bootstrap and the shuffling.

    Raises:
        ValueError: no text has a pair at the greatest lag, or nothing ever changes.
    """
    texts = [np.asarray(x, dtype=np.float64) for x in series if len(x) > 1]
    if lags < 1 or max((len(x) for x in texts), default=0) <= lags:
        raise ValueError(f"no text is long enough for a lag of {lags}")
    overall = float(np.mean(np.concatenate(texts)))
    texts = [x - (x.mean() if own_means else overall) for x in texts]
    squares = np.array([[float(x @ x), len(x)] for x in texts])
    if squares[:, 0].sum() <= 1e-12:
        raise ValueError("the values never change: there is nothing to correlate")
    sums = _products(texts, lags)  # (texts, lags, 2): sum of products, pairs
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(texts), (RESAMPLES, len(texts)))
    low, high = _range(np.stack([_normed(sums[d], squares[d]) for d in drawn]))
    shuffled = [
        _normed(_products([rng.permutation(x) for x in texts], lags), squares)
        for _ in range(_SHUFFLES)
    ]
    below, above = _range(np.stack(shuffled))
    values = _normed(sums, squares)
    return [
        Lag(
            k + 1,
            float(values[k]),
            (float(low[k]), float(high[k])),
            (float(below[k]), float(above[k])),
            int(sums[:, k, 1].sum()),
        )
        for k in range(lags)
    ]


def _products(texts: Sequence[np.ndarray], lags: int) -> np.ndarray:
    """(texts, lags, 2): each text's sum of products at each lag, and how many there are."""
    found = np.zeros((len(texts), lags, 2))
    for text, x in enumerate(texts):
        for k in range(1, min(lags, len(x) - 1) + 1):
            found[text, k - 1] = x[:-k] @ x[k:], len(x) - k
    return found


def _normed(sums: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """(lags,): mean product over mean square; 0 where a draw has no pair."""
    total = sums.sum(axis=0)
    variance = squares[:, 0].sum() / squares[:, 1].sum()
    return total[:, 0] / np.maximum(total[:, 1], 1) / max(variance, 1e-12)


def correlation(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Pearson's correlation of all pairs of all texts, and its 95% interval over texts.

    Raises:
        ValueError: a text's two arrays differ in length, or one of the two never changes.
    """
    sums = []
    for x, y in pairs:
        if len(x) != len(y):
            raise ValueError(f"{len(x)} values cannot be paired with {len(y)}")
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        sums.append([len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y])
    table = np.array(sums)
    value = float(_pearson(table.sum(axis=0)))
    if np.isnan(value):
        raise ValueError("the values never change: there is nothing to correlate")
    drawn = np.random.default_rng(seed).integers(0, len(table), (RESAMPLES, len(table)))
    low, high = _range(_pearson(table[drawn].sum(axis=1)))
    return value, (float(low), float(high))


def _pearson(sums: np.ndarray) -> np.ndarray:
    """Of (..., 6) sums: n, x, y, xx, yy, xy; not a number where one never changes."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = (n * xx - x * x) * (n * yy - y * y)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 1e-9, (n * xy - x * y) / np.sqrt(np.abs(spread)), np.nan)


def ratio_of_sums(
    above: np.ndarray, below: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Σ above / Σ below over texts, and the ends of its 95% interval over texts.

    Args:
        above, below: (texts, columns); a column is a figure of its own.
        seed: of the bootstrap.

    Returns:
        three arrays (columns,); not a number where nothing was counted.
    """
    drawn = np.random.default_rng(seed).integers(0, len(above), (RESAMPLES, len(above)))
    with np.errstate(invalid="ignore", divide="ignore"):
        value = above.sum(axis=0) / below.sum(axis=0)
        low, high = _range(above[drawn].sum(axis=1) / below[drawn].sum(axis=1))
    return value, low, high


def _range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle `LEVEL` of the first axis, without NaNs."""
    rest = 50 * (1 - LEVEL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without any number
        low, high = np.nanpercentile(values, (rest, 100 - rest), axis=0)
    return low, high


@dataclass(frozen=True)
class Bin:
    """Values from ``low`` to below ``high``: how many, their mean, and how often it happened.

    ``interval`` is the 95% bootstrap interval of the rate over texts.
    """

    low: float
    high: float
    count: int
    mean: float
    rate: float
    interval: tuple[float, float]


def binned(
    texts: Sequence[tuple[np.ndarray, np.ndarray]], edges: Sequence[float], seed: int = 0
) -> list[Bin]:
    """The bins between ``edges`` that hold something; the last one has its upper end too.

    Args:
        texts: for each text the values (n,) and whether it happened, bool (n,).
        edges: ascending.
        seed: of the bootstrap.

    Raises:
        ValueError: edges out of order, arrays of two lengths, or a value outside the edges.
    """
    steps = np.asarray(edges, dtype=np.float64)
    if len(steps) < 2 or not (np.diff(steps) > 0).all():
        raise ValueError("edges must be at least two, ascending")
    bins = len(steps) - 1
    counts, hits, sums = (np.zeros((len(texts), bins)) for _ in range(3))
    for text, (values, happened) in enumerate(texts):
        if len(values) != len(happened):
            raise ValueError(f"{len(values)} values and {len(happened)} outcomes")
        if len(values) and not steps[0] <= np.min(values) <= np.max(values) <= steps[-1]:
            raise ValueError(f"a value lies outside {steps[0]} to {steps[-1]}")
        place = np.minimum(np.searchsorted(steps, values, side="right") - 1, bins - 1)
        counts[text] = np.bincount(place, minlength=bins)
        hits[text] = np.bincount(place, weights=happened, minlength=bins)
        sums[text] = np.bincount(place, weights=values, minlength=bins)
    rate, low, high = ratio_of_sums(hits, counts, seed)
    total = counts.sum(axis=0)
    return [
        Bin(
            float(steps[b]),
            float(steps[b + 1]),
            int(total[b]),
            float(sums[:, b].sum() / total[b]),
            float(rate[b]),
            (float(low[b]), float(high[b])),
        )
        for b in range(bins)
        if total[b]
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error: mean distance of rate and mean value, by count.

    Raises:
        ValueError: nothing was counted.
    """
    count = sum(b.count for b in bins)
    if not count:
        raise ValueError("nothing was counted")
    return sum(b.count * abs(b.rate - b.mean) for b in bins) / count

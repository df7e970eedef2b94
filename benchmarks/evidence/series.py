"""Autocorrelation and correlation over several texts, with bootstrap intervals over the texts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sage_core.bench.statistics import LEVEL, RESAMPLES

__all__ = ["Lag", "autocorrelation", "correlation", "ratio_of_sums"]

_SHUFFLES = 200


@dataclass(frozen=True)
class Lag:
    """The autocorrelation at one lag: its 95% interval over texts, and what chance gives.

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
    """How like its value ``lag`` places on a value is, for lags 1 to ``lags``.

    With ``own_means`` each text's own mean is taken off first, so that texts which are hard
    throughout do not count as memory; otherwise the mean of all. The covariance at a lag is the
    mean over all pairs of all texts, divided by the mean square. With short texts that leans
    below zero by about one over their length; the range of chance leans as much.

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
    for row, x in enumerate(texts):
        for k in range(1, min(lags, len(x) - 1) + 1):
            found[row, k - 1] = x[:-k] @ x[k:], len(x) - k
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
    """The middle `LEVEL` of the first axis, what is not a number left out."""
    rest = 50 * (1 - LEVEL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without any number
        low, high = np.nanpercentile(values, (rest, 100 - rest), axis=0)
    return low, high

"""Medians over items, ratios of paired medians, and bootstrap intervals of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["LEVEL", "RESAMPLES", "interval", "median", "paired_interval", "paired_ratio"]

LEVEL = 0.95
RESAMPLES = 2000


def median(values: Sequence[float]) -> float | None:
    """The median; None if there are no values."""
    return float(np.median(values)) if len(values) else None


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The median of ``ours`` divided by the median of ``theirs``; None if there are no values.

    Both have one value per item, in the same order. Unlike a mean of ratios it is not dominated by
    a few short texts.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} values cannot be paired with {len(theirs)}")
    return float(np.median(ours) / np.median(theirs)) if len(ours) else None


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """The percentile bootstrap interval of the median over items, at `LEVEL`."""
    return paired_interval(values, np.ones(len(values)), seed)


def paired_interval(
    ours: Sequence[float], theirs: ArrayLike, seed: int = 0
) -> tuple[float, float] | None:
    """The interval of `paired_ratio`: an item is resampled with both its values."""
    pairs = np.column_stack([ours, theirs])  # refuses columns of different lengths
    if not len(pairs):
        return None
    drawn = np.random.default_rng(seed).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    medians = np.median(pairs[drawn], axis=1)
    rest = 50 * (1 - LEVEL)
    low, high = np.percentile(medians[:, 0] / medians[:, 1], (rest, 100 - rest))
    return float(low), float(high)

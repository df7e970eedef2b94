"""Calibration: how often what was given a value happened, by bins of the value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.evidence.series import ratio_of_sums

__all__ = ["Bin", "binned", "calibration_error"]


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
    for row, (values, happened) in enumerate(texts):
        if len(values) != len(happened):
            raise ValueError(f"{len(values)} values and {len(happened)} outcomes")
        if len(values) and not steps[0] <= np.min(values) <= np.max(values) <= steps[-1]:
            raise ValueError(f"a value lies outside {steps[0]} to {steps[-1]}")
        place = np.minimum(np.searchsorted(steps, values, side="right") - 1, bins - 1)
        counts[row] = np.bincount(place, minlength=bins)
        hits[row] = np.bincount(place, weights=happened, minlength=bins)
        sums[row] = np.bincount(place, weights=values, minlength=bins)
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

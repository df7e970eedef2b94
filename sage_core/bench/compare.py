"""What changed between two runs: items paired by id, intervals by bootstrap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sage_core.bench.statistics import paired_interval, paired_ratio
from sage_core.errors import InputError, OptionError

__all__ = ["Change", "compare"]


@dataclass(frozen=True)
class Change:
    """One figure of one method in both runs, over the items that both runs have.

    ``ratio`` is that of paired medians, the second run's over the first's, with its interval.
    """

    method: str
    figure: str
    items: int
    before: float
    after: float
    ratio: float
    interval: tuple[float, float]

    @property
    def changed(self) -> bool:
        """Whether the interval excludes 1."""
        return not self.interval[0] <= 1 <= self.interval[1]


def compare(before: Mapping[str, Any], after: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """Compare two reports.

    Figures: ``tokens_per_second``, ``speedup`` over each run's own reference (not affected by
    changes of the machine's speed), ``mean_accepted``; and the texts whose exactness changed.

    Raises:
        InputError: one of them is not a report.
        OptionError: they share no method or no item, or have different references.
    """
    for report in (before, after):
        if not isinstance(report.get("methods"), list) or not isinstance(report.get("items"), list):
            raise InputError("not a report of sage bench: it has no methods and items")
    if before.get("reference") != after.get("reference"):
        raise OptionError(
            f"the runs have different references: {before.get('reference')} and "
            f"{after.get('reference')}: compare runs with the same --reference"
        )
    names = _shared([m["name"] for m in before["methods"]], [m["name"] for m in after["methods"]])
    old = {item["id"]: item for item in before["items"]}
    new = {item["id"]: item for item in after["items"]}
    ids = _shared(list(old), list(new))
    if not names or not ids:
        raise OptionError(f"the runs share no {'item' if names else 'method'}")
    changes: list[Change] = []
    texts: list[dict[str, Any]] = []
    for name in names:
        pairs = {i: (old[i]["methods"].get(name), new[i]["methods"].get(name)) for i in ids}
        both = {i: (a, b) for i, (a, b) in pairs.items() if a and b}
        changes += _changes(name, list(both.values()), seed)
        texts += [
            {"method": name, "item": i, "before": a["exact"], "after": b["exact"]}
            for i, (a, b) in both.items()
            if None not in (a["exact"], b["exact"]) and a["exact"] != b["exact"]
        ]
    return {
        "schema": 1,
        "reference": before.get("reference"),
        "items": len(ids),
        "only_before": sorted(set(old) - set(new)),
        "only_after": sorted(set(new) - set(old)),
        "methods_only_before": [m["name"] for m in before["methods"] if m["name"] not in names],
        "methods_only_after": [m["name"] for m in after["methods"] if m["name"] not in names],
        "changes": [{**asdict(change), "changed": change.changed} for change in changes],
        "texts": texts,
    }


def _changes(name: str, both: list[tuple[Any, Any]], seed: int) -> list[Change]:
    """The figures of one method; items that lack a figure in one run are left out."""
    changes = []
    for figure, key in (
        ("tokens_per_second", "rate"),
        ("speedup", "speedup"),
        ("mean_accepted", "mean_accepted"),
    ):
        pairs = [(a[key], b[key]) for a, b in both if a[key] and b[key]]
        old, new = [a for a, _ in pairs], [b for _, b in pairs]
        ratio, interval = paired_ratio(new, old), paired_interval(new, old, seed)
        if ratio is None or interval is None:
            continue
        before, after = float(np.median(old)), float(np.median(new))
        changes.append(Change(name, figure, len(pairs), before, after, ratio, interval))
    return changes


def _shared(first: list[str], second: list[str]) -> list[str]:
    return [name for name in first if name in second]

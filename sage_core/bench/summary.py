"""From records to the figures that docs/bench.md documents, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sage_core.bench.records import Record, Results
from sage_core.bench.statistics import interval, median, paired_interval, paired_ratio

__all__ = ["SCHEMA", "SPEEDUP", "ItemFigures", "item_figures", "summary"]

SCHEMA = 1
"""Version of the report. Within a version fields may be added; none is changed or removed."""

SPEEDUP = (
    "ratio of paired medians: the method's median tokens/s over the reference's, "
    "over the items that both decoded"
)


@dataclass(frozen=True)
class ItemFigures:
    """One item by one method, over its repeats."""

    id: str
    new_tokens: int
    rates: tuple[float, ...]
    """Tokens per second without the prefill; empty for a text that is too short."""
    rate: float | None
    """Median of ``rates``."""
    whole_rate: float | None
    """Median tokens per second including the prefill."""
    exact: bool | None
    """Whether every repeat has the reference's tokens; None if they cannot be compared."""


def item_figures(
    results: Results, items: Sequence[str], method: str, reference: str, least: int
) -> list[ItemFigures]:
    """The figures of each item that the method finished.

    Texts of fewer than ``least`` tokens have no rate, but count for exactness.
    """
    figures = []
    for item in items:
        records = results.of(item, method)
        if not records:
            continue
        expected = results.records.get((item, reference, 0))
        if not all(record.comparable for record in records):
            expected = None
        exact = None if expected is None else all(r.tokens == expected.tokens for r in records)
        long_enough = len((expected or records[0]).tokens) >= least
        rates = tuple(r.rate for r in records if r.rate is not None) if long_enough else ()
        whole = [r.whole_rate for r in records if r.whole_rate is not None] if rates else []
        figures.append(
            ItemFigures(item, len(records[0].tokens), rates, median(rates), median(whole), exact)
        )
    return figures


def summary(
    results: Results,
    methods: Sequence[str],
    reference: str,
    *,
    least: int = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """``methods``, ``items`` and ``failures`` of the report.

    Args:
        results: all records.
        methods: names, in the order of the table.
        reference: the method that the others are compared with.
        least: shorter texts have no rate, because they have too few tokens to time.
        seed: of the bootstrap.
    """
    ids = list(results.items)
    by_method = {m: item_figures(results, ids, m, reference, least) for m in methods}
    theirs = {figures.id: figures for figures in by_method.get(reference, [])}
    return {
        "methods": [_method(results, m, by_method[m], theirs, seed) for m in methods],
        "items": [_item(results, item, by_method, theirs) for item in ids],
        "failures": [asdict(failure) for failure in results.failures],
    }


def _method(
    results: Results,
    name: str,
    figures: list[ItemFigures],
    theirs: dict[str, ItemFigures],
    seed: int,
) -> dict[str, Any]:
    rates = [f.rate for f in figures if f.rate is not None]
    ratios = {f.id: ratio for f in figures if (ratio := _ratio(f, theirs.get(f.id))) is not None}
    paired = [(f, theirs[f.id]) for f in figures if f.id in ratios]
    ours, reference = [f.rate or 0.0 for f, _ in paired], [r.rate or 0.0 for _, r in paired]
    worst = min(ratios, key=ratios.__getitem__, default=None)
    records = [record for f in figures for record in results.of(f.id, name)]
    differences = [d for (_, method), d in results.differences.items() if method == name]
    return {
        "name": name,
        "lossy": next((r.lossy for r in records if r.lossy is not None), None),
        "comparable": all(record.comparable for record in records),
        "items": len(figures),
        "timed_items": len(rates),
        "failed": len({f.item for f in results.failures if f.method in ("", name)}),
        "exact": sum(f.exact is True for f in figures),
        "compared": sum(f.exact is not None for f in figures),
        "differences": [asdict(difference) for difference in differences],
        "new_tokens": sum(f.new_tokens for f in figures),
        "tokens_per_second": median(rates),
        "tokens_per_second_interval": interval(rates, seed),
        "speedup": paired_ratio(ours, reference),
        "speedup_interval": paired_interval(ours, reference, seed),
        "median_item_speedup": median([*ratios.values()]),
        "end_to_end_speedup": paired_ratio(
            [f.whole_rate or 0.0 for f, _ in paired], [r.whole_rate or 0.0 for _, r in paired]
        ),
        "slower_items": sum(r < 1 for r in ratios.values()) / len(ratios) if ratios else None,
        "worst_item": worst,
        "worst_item_speedup": None if worst is None else ratios[worst],
        **_counted(records),
        "seconds": _seconds(results, name, figures),
        "peak_memory": max((r.peak_memory for r in records), default=0) or None,
    }


def _counted(records: list[Record]) -> dict[str, Any]:
    """Acceptance, nodes and draft passes over all steps of all records.

    ``mean_accepted`` is τ, the drafted tokens that are accepted per step, without the bonus token.
    ``mean_acceptance_length`` includes the bonus token, as vLLM's figure of that name.
    """
    counts = [record.counts for record in records if record.counts is not None]
    steps = sum(c.steps for c in counts)
    accepted: Counter[int] = Counter()
    drafted: Counter[int] = Counter()
    for c in counts:
        accepted.update(c.accepted)
        drafted.update(c.drafted)
    nodes = [c.nodes for c in counts if c.nodes is not None]
    passes = [c.draft_passes for c in counts if c.draft_passes is not None]
    return {
        "steps": steps if counts else None,
        "mean_accepted": _per(sum(k * n for k, n in accepted.items()), steps),
        "mean_acceptance_length": _per(sum((k + 1) * n for k, n in accepted.items()), steps),
        "accepted_histogram": {str(k): accepted[k] for k in sorted(accepted)},
        "acceptance_by_depth": _by_depth(accepted, drafted),
        "nodes_per_step": _per(sum(nodes), steps) if nodes else None,
        "draft_passes_per_step": _per(sum(passes), steps) if passes else None,
    }


def _per(total: float, steps: int) -> float | None:
    return total / steps if steps else None


def _by_depth(accepted: Counter[int], drafted: Counter[int]) -> list[dict[str, Any]]:
    """For each depth: the trees that reach it, and the share of them accepted to that depth."""
    shares = []
    for depth in range(1, max(+drafted, default=0) + 1):  # + leaves out counts of zero
        reached = sum(n for d, n in drafted.items() if d >= depth)
        kept = sum(n for k, n in accepted.items() if k >= depth)
        shares.append({"depth": depth, "steps": reached, "accepted": kept / reached})
    return shares


def _seconds(results: Results, name: str, figures: list[ItemFigures]) -> dict[str, float]:
    """Seconds by phase over all items: the sum of each item's median over its repeats."""
    totals: dict[str, float] = {}
    for f in figures:
        records = results.of(f.id, name)
        named = [{"prefill": r.prefill, "decode": r.decode, **r.phases} for r in records]
        for phase in named[0]:
            seconds = median([phases.get(phase, 0.0) for phases in named]) or 0.0
            totals[phase] = totals.get(phase, 0.0) + seconds
    return totals


def _item(
    results: Results,
    item: str,
    by_method: dict[str, list[ItemFigures]],
    theirs: dict[str, ItemFigures],
) -> dict[str, Any]:
    """One item with the figures of each method on it."""
    methods: dict[str, Any] = {}
    for name, figures in by_method.items():
        ours = next((f for f in figures if f.id == item), None)
        if ours is None:
            continue
        counted = _counted(results.of(item, name)[:1])
        methods[name] = {
            "new_tokens": ours.new_tokens,
            "rates": list(ours.rates),
            "rate": ours.rate,
            "speedup": _ratio(ours, theirs.get(item)),
            "exact": ours.exact,
            **{key: counted[key] for key in ("mean_accepted", "mean_acceptance_length")},
        }
    return {**asdict(results.items[item]), "methods": methods}


def _ratio(ours: ItemFigures, theirs: ItemFigures | None) -> float | None:
    """The speed-up of one item; None if one of the two has no rate."""
    if theirs is None or ours.rate is None or theirs.rate is None:
        return None
    return ours.rate / theirs.rate

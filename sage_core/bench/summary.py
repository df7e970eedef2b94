"""From records to figures: what docs/bench.md documents, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median as middle
from typing import Any

from sage_core.bench.records import Record, Results
from sage_core.bench.statistics import interval, median, paired_interval, paired_ratio

__all__ = ["SCHEMA", "SPEEDUP", "ItemFigures", "item_figures", "summary"]

SCHEMA = 1
"""Version of the report. Fields may be added within a version; none changes or goes away."""

SPEEDUP = (
    "ratio of paired medians: the method's median tokens/s over the reference's, "
    "over the items that both decoded"
)


@dataclass(frozen=True)
class ItemFigures:
    """One item by one method, its repeats taken together.

    ``rate`` and ``whole_rate`` are medians over the repeats, tokens a second without and with the
    prefill; None where the prefill ended the text, or where it is shorter than asked for.
    ``exact`` is None where the reference gave nothing, or no text that this one can be held to.
    """

    id: str
    new_tokens: int
    rates: tuple[float, ...]
    rate: float | None
    whole_rate: float | None
    exact: bool | None


def item_figures(
    results: Results, items: Sequence[str], method: str, reference: str, least: int
) -> list[ItemFigures]:
    """The figures of each item that the method finished.

    Texts of fewer than ``least`` tokens get no rate; they still count for exactness.
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
        results: everything that was measured.
        methods: names, in the order of the table.
        reference: the method that the others are held against.
        least: shorter texts have no rate: too few tokens to time.
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
    timed = [f for f in figures if f.rate is not None]
    pairs = [(f, theirs[f.id]) for f in timed if f.id in theirs and theirs[f.id].rate is not None]
    ours, reference = [f.rate or 0.0 for f, _ in pairs], [r.rate or 0.0 for _, r in pairs]
    ratios = [a / b for a, b in zip(ours, reference, strict=True)]
    rates = [f.rate or 0.0 for f in timed]
    worst = min(range(len(ratios)), key=ratios.__getitem__) if ratios else None
    records = [record for f in figures for record in results.of(f.id, name)]
    differences = [d for (_, method), d in results.differences.items() if method == name]
    return {
        "name": name,
        "lossy": next((r.lossy for r in records if r.lossy is not None), None),
        "comparable": all(record.comparable for record in records),
        "items": len(figures),
        "timed_items": len(timed),
        "failed": len({f.item for f in results.failures if f.method in ("", name)}),
        "exact": sum(f.exact is True for f in figures),
        "compared": sum(f.exact is not None for f in figures),
        "differences": [asdict(difference) for difference in differences],
        "new_tokens": sum(f.new_tokens for f in figures),
        "tokens_per_second": median(rates),
        "tokens_per_second_interval": interval(rates, seed),
        "speedup": paired_ratio(ours, reference),
        "speedup_interval": paired_interval(ours, reference, seed),
        "median_item_speedup": median(ratios),
        "end_to_end_speedup": paired_ratio(
            [f.whole_rate or 0.0 for f, _ in pairs], [r.whole_rate or 0.0 for _, r in pairs]
        ),
        "slower_items": sum(r < 1 for r in ratios) / len(ratios) if ratios else None,
        "worst_item": None if worst is None else pairs[worst][0].id,
        "worst_item_speedup": None if worst is None else ratios[worst],
        **_counted(records),
        "seconds": _seconds(results, name, figures),
        "peak_memory": max((r.peak_memory for r in records), default=0) or None,
    }


def _counted(records: list[Record]) -> dict[str, Any]:
    """τ and what a step took, over all steps of all records."""
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
        "accepted_histogram": {str(k): accepted[k] for k in sorted(accepted)},
        "acceptance_by_depth": _by_depth(accepted, drafted),
        "nodes_per_step": _per(sum(nodes), steps) if nodes else None,
        "draft_passes_per_step": _per(sum(passes), steps) if passes else None,
    }


def _per(total: float, steps: int) -> float | None:
    return total / steps if steps else None


def _by_depth(accepted: Counter[int], drafted: Counter[int]) -> list[dict[str, Any]]:
    """For each depth that a tree reached: how many trees did, and the share accepted there."""
    table = []
    for depth in range(1, max(+drafted, default=0) + 1):  # + leaves out counts of zero
        reached = sum(n for d, n in drafted.items() if d >= depth)
        kept = sum(n for k, n in accepted.items() if k >= depth)
        table.append({"depth": depth, "steps": reached, "accepted": kept / reached})
    return table


def _seconds(results: Results, name: str, figures: list[ItemFigures]) -> dict[str, float]:
    """Seconds by phase over all items: the sum of each item's median over its repeats."""
    totals: dict[str, float] = {}
    for f in figures:
        records = results.of(f.id, name)
        named = [{"prefill": r.prefill, "decode": r.decode, **r.phases} for r in records]
        for phase in named[0]:
            middle_one = middle(phases.get(phase, 0.0) for phases in named)
            totals[phase] = totals.get(phase, 0.0) + middle_one
    return totals


def _item(
    results: Results,
    item: str,
    by_method: dict[str, list[ItemFigures]],
    theirs: dict[str, ItemFigures],
) -> dict[str, Any]:
    """One item with what each method made of it; rates of all repeats."""
    methods: dict[str, Any] = {}
    for name, figures in by_method.items():
        mine = next((f for f in figures if f.id == item), None)
        if mine is None:
            continue
        reference = theirs.get(item)
        both = mine.rate is not None and reference is not None and reference.rate is not None
        first = results.of(item, name)[0]
        methods[name] = {
            "new_tokens": mine.new_tokens,
            "rates": list(mine.rates),
            "rate": mine.rate,
            "speedup": mine.rate / reference.rate if both else None,  # type: ignore[operator, union-attr]
            "exact": mine.exact,
            "mean_accepted": _counted([first])["mean_accepted"],
        }
    return {**asdict(results.items[item]), "methods": methods}

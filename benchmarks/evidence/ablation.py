"""What each part of the published rule contributes: one option changed at a time, nothing timed.

Trees are arithmetic, so that these figures are the same on any machine but for rounding. What a
node and a draft pass cost is not: `speed.TIMED` times some of the changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import plots
from benchmarks.evidence.bench import Bench, Part
from benchmarks.evidence.series import ratio_of_sums
from benchmarks.evidence.speed import RULE
from benchmarks.harness import Column, methods_table, number, span

ITEMS = 20
GROUPS: dict[str, tuple[str, ...]] = {
    "nothing, as published": ("",),
    "α of the step's own root, not of the one before": ("lookahead=false",),
    "history": ("history=0", "raise_by=0"),
    "Eq. 12": ("scale_width=false", "parent=cumulative"),
    "k": ("k=4", "k=6", "k=16", "k=32"),
    "θ": ("theta=0", "theta=0.02", "theta=0.05", "theta=0.2", "theta=0.4"),
    "depths": (
        "dmin=1,dmax=3",
        "dmin=1,dmax=5",
        "dmin=1",
        "dmax=5",
        "dmax=12",
        "dmin=5,dmax=5",
        "dmin=8",
    ),
    "widths": (
        "wmin=1,wmax=1",
        "wmin=1,wmax=4",
        "wmax=4",
        "wmin=4,wmax=16",
        "wmin=10",
    ),
    "nodes": ("nmax=8", "nmax=16", "nmax=32"),
}


def specs() -> dict[str, str]:
    """Every variant's policy, and the group that it belongs to."""
    return {
        RULE + (f":{options}" if options else ""): group
        for group, members in GROUPS.items()
        for options in members
    }


def run(bench: Bench) -> dict[str, Any]:
    groups = specs()
    methods = [bench.method(spec) for spec in groups]
    counts: dict[str, list[tuple[int, int, int, int]]] = {spec: [] for spec in groups}
    exact = dict.fromkeys(groups, 0)
    for item in bench.inputs(ITEMS):
        expected: tuple[int, ...] = ()
        for method in methods:
            decoded = bench.decode(method, item)
            expected = expected or decoded.tokens
            exact[method.name] += decoded.tokens == expected
            steps = [step for step in decoded.steps if not step.is_prefill]
            accepted = sum(len(step.accepted) for step in steps)
            nodes = sum(len(step.tree) for step in steps)
            passes = sum(step.draft_passes for step in steps)
            counts[method.name].append((len(steps), accepted, nodes, passes))
    base = np.array(counts[RULE])
    return {
        "texts": len(base),
        "variants": [
            {"name": spec, "group": group, "exact": exact[spec]}
            | figures(np.array(counts[spec]), base)
            for spec, group in groups.items()
        ],
    }


def figures(counts: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    """τ, nodes and draft passes a step, and totals over those of ``base``.

    Args:
        counts, base: (texts, 4): steps, accepted tokens, nodes, draft passes.
    """
    steps, accepted, nodes, passes = counts.sum(axis=0)
    ratio, low, high = ratio_of_sums(counts[:, :1], base[:, :1])
    return {
        "mean_accepted": float(accepted / steps),
        "nodes_per_step": float(nodes / steps),
        "draft_passes_per_step": float(passes / steps),
        "target_passes": float(ratio[0]),
        "target_passes_interval": (float(low[0]), float(high[0])),
        "draft_passes": float(passes / base[:, 3].sum()),
        "nodes": float(nodes / base[:, 2].sum()),
    }


def page(data: dict[str, Any]) -> list[str]:
    columns: list[Column] = [
        ("τ", lambda v: number(v["mean_accepted"])),
        ("nodes/step", lambda v: number(v["nodes_per_step"], 1)),
        ("draft passes/step", lambda v: number(v["draft_passes_per_step"])),
        ("target passes", lambda v: number(v["target_passes"], 3)),
        ("95%", lambda v: span(v["target_passes_interval"])),
        ("draft passes", lambda v: number(v["draft_passes"])),
        ("nodes", lambda v: number(v["nodes"])),
        ("exact", lambda v: f"{v['exact']}/{data['texts']}"),
    ]
    text = (
        f"{data['texts']} texts. Target passes, draft passes and nodes are totals over those of "
        "the published rule, for the same text: below 1 is less work. 95%: over texts. τ does not "
        "count the bonus token. Nothing here was timed."
    )
    lines = [text]
    for group in dict.fromkeys(v["group"] for v in data["variants"]):
        own = {f"`{v['name']}`": v for v in data["variants"] if v["group"] == group}
        lines += ["", f"Changed: {group}", "", *methods_table(own, columns, "policy")]
    return lines


def draw(data: dict[str, Any]) -> Any:
    rows = [
        (
            v["name"].partition(":")[2] or "as published",
            v["target_passes"],
            v["target_passes_interval"],
            f"{v['nodes_per_step']:.0f} nodes, {v['draft_passes_per_step']:.1f} draft passes",
        )
        for v in data["variants"]
    ]
    return plots.bars(
        rows, "target passes for the same text, beside the published rule", [rows[0][0]]
    )


PART = Part("The published rule, one option changed at a time", run, page, draw)

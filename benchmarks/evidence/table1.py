"""Table 1: every way to decode, with the trees as published and with equally many nodes."""

from __future__ import annotations

from typing import Any

from benchmarks.evidence.bench import REFERENCE, Bench
from benchmarks.evidence.drawing import bars
from benchmarks.evidence.page import TIME, counted, number, span, table
from sage_core.bench.statistics import paired_interval, paired_ratio
from sage_core.drafts.pruning.options import Pruning

TITLE = "Every method, as published and at equal node budgets (Table 1)"
ITEMS, REPEATS = 12, 2
PUBLISHED = Pruning(least=0)
"""0.9 of a clip's visual tokens and 0.8 of a picture's left out, however few there are."""
BUDGETS = (25, 64)
RULE = "sage-paper"


def run(bench: Bench) -> dict[str, Any]:
    nodes = _typical_nodes(bench)
    published = [
        bench.method(REFERENCE),
        bench.method("chain"),
        bench.method("static"),
        bench.method("static", "static, draft pruned", PUBLISHED),
        bench.method("sage-paper"),
        bench.method("sage-paper", "sage-paper, draft pruned", PUBLISHED),
        bench.method("eagle2"),
        bench.method("sage"),
    ]
    trees: dict[str, Any] = {}
    equal = [bench.method(f"sage-paper:nmax={BUDGETS[0]}")]
    for budget in (nodes, *BUDGETS):
        method, trees[f"best-static:nodes={budget}"] = bench.best_static(budget)
        equal.append(method)
    report = bench.measure(published + equal, ITEMS, REPEATS)
    return {**report, "typical_nodes": nodes, "calibration": trees}


def _typical_nodes(bench: Bench) -> int:
    """How many nodes sage-paper verifies a step, on texts that are not measured."""
    method, engine = bench.method("sage-paper"), bench.engine()
    found = [method.decode(item, engine.stopwatch()).counts for item in bench.others(engine)]
    nodes = sum(counts.nodes or 0 for counts in found if counts)
    return max(1, round(nodes / sum(counts.steps for counts in found if counts)))


def page(data: dict[str, Any]) -> list[str]:
    settings, budget = data["settings"], data["typical_nodes"]
    lines = [
        f"{settings['items']} held-out texts that describe something, {settings['repeats']} "
        f"repeats, at most {settings['limit']} new tokens. Decoding only, "
        f"{TIME[settings['clock']]}; speed-up: ratio of "
        "paired medians over `autoregressive` with its 95% interval over texts; end to end: the "
        "same with both prefills. `static, draft pruned` is SpecVLM (Ji) as published. A "
        "`best-static` tree was chosen on other texts; "
        f"{budget} is what `sage-paper` verifies a step on average there, 25 what SpecVLM's tree "
        "has, 64 the limit of `sage-paper`. `sage` is this project's own policy.",
        "",
    ]
    head = ["method", "tokens/s", "speed-up", "95%", f"beside {RULE}", "95%", "end to end"]
    head += ["worst text", "τ", "nodes/step", "draft passes/step", "exact"]
    lines += table(head, [_row(data, method) for method in data["methods"]])
    return lines


def beside(data: dict[str, Any], name: str, other: str) -> tuple[float | None, Any]:
    """A method's speed over another's: the ratio of paired medians, and its interval."""
    items = [item["methods"] for item in data["items"]]
    pairs = [(m[name]["rate"], m[other]["rate"]) for m in items if name in m and other in m]
    ours, theirs = zip(*[pair for pair in pairs if None not in pair], strict=True)
    return paired_ratio(ours, theirs), paired_interval(ours, theirs)


def _row(data: dict[str, Any], m: dict[str, Any]) -> list[str]:
    ratio, interval = beside(data, m["name"], RULE)
    return [
        m["name"],
        number(m["tokens_per_second"], 1),
        number(m["speedup"]),
        span(m["speedup_interval"]),
        number(ratio),
        span(interval),
        number(m["end_to_end_speedup"]),
        number(m["worst_item_speedup"]),
        *counted(m),
    ]


def draw(data: dict[str, Any]) -> Any:
    rows = [
        (m["name"], m["speedup"], m["speedup_interval"], f"τ {number(m['mean_accepted'])}")
        for m in data["methods"]
        if m["speedup"] is not None and m["name"] != data["reference"]
    ]
    label = "speed-up over autoregressive, ratio of paired medians with 95% interval"
    return bars(rows, label, [name for name, *_ in rows if name.startswith("sage")])

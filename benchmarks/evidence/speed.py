"""The parts that time whole methods: Tables 1, 5 and 6, and an ablation of the published rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks import plots
from benchmarks.evidence.bench import REFERENCE, Bench, Part
from benchmarks.harness import Column, methods_table, number, percent, span, table
from sage_core.bench.statistics import paired_interval, paired_ratio
from sage_core.drafts.pruning.options import Pruning

RULE = "sage-paper"
"""The published rule."""
TIME = {
    "wall": "wall time",
    "cpu": "processor time of one thread, since other work ran on the machine",
}
"""What each clock of `Bench` reads."""
RATE: Column = ("tokens/s", lambda m: number(m["tokens_per_second"], 1))
SPEEDUP: tuple[Column, Column] = (
    ("speed-up", lambda m: number(m["speedup"])),
    ("95%", lambda m: span(m["speedup_interval"])),
)
END_TO_END: Column = ("end to end", lambda m: number(m["end_to_end_speedup"]))
ACCEPTED: Column = ("τ", lambda m: number(m["mean_accepted"]))
EXACT: Column = ("exact", lambda m: f"{m['exact']}/{m['compared']}")
COUNTED: tuple[Column, ...] = (
    ACCEPTED,
    ("nodes/step", lambda m: number(m["nodes_per_step"], 1)),
    ("draft passes/step", lambda m: number(m["draft_passes_per_step"])),
    EXACT,
)


def setting(data: Mapping[str, Any]) -> str:
    """How much was measured, and by which clock."""
    s = data["settings"]
    return (
        f"{s['items']} held-out texts that describe something, {s['repeats']} repeats in rotated "
        f"order, at most {s['limit']} new tokens; {TIME[s['clock']]}. A speed-up is a ratio of "
        "paired medians with its 95% interval over texts. τ does not count the bonus token."
    )


def speedups(data: Mapping[str, Any], ours: Sequence[str], label: str) -> Any:
    """A bar a method: its speed-up and τ."""
    rows = [
        (m["name"], m["speedup"], m["speedup_interval"], f"τ {number(m['mean_accepted'])}")
        for m in data["methods"]
        if m["speedup"] is not None and m["name"] != data["reference"]
    ]
    return plots.bars(rows, label, ours)


# Table 1

BUDGETS = (25, 64)
PUBLISHED = Pruning(least=0)
"""0.9 of a video's visual tokens and 0.8 of an image's left out, however few there are."""


def run_table1(bench: Bench) -> dict[str, Any]:
    nodes = typical_nodes(bench)
    methods = [
        *(bench.method(name) for name in (REFERENCE, "chain", "static")),
        bench.method("static", "static, draft pruned", PUBLISHED),
        bench.method(RULE),
        bench.method(RULE, f"{RULE}, draft pruned", PUBLISHED),
        *(bench.method(name) for name in ("eagle2", "sage", f"{RULE}:nmax={BUDGETS[0]}")),
    ]
    trees: dict[str, Any] = {}
    for budget in (nodes, *BUDGETS):
        method, trees[f"best-static:nodes={budget}"] = bench.best_static(budget)
        methods.append(method)
    return {**bench.measure(methods, 12, 2), "typical_nodes": nodes, "calibration": trees}


def typical_nodes(bench: Bench) -> int:
    """How many nodes the published rule verifies a step, on texts that are not measured."""
    method, engine = bench.method(RULE), bench.engine()
    found = [method.decode(item, engine.stopwatch()).counts for item in bench.others(engine)]
    nodes = sum(counts.nodes or 0 for counts in found if counts)
    return max(1, round(nodes / sum(counts.steps for counts in found if counts)))


def beside(data: Mapping[str, Any], name: str, other: str) -> tuple[float | None, Any]:
    """A method's speed over another's: the ratio of paired medians, and its interval."""
    items = [item["methods"] for item in data["items"]]
    pairs = [(m[name]["rate"], m[other]["rate"]) for m in items if name in m and other in m]
    ours, theirs = zip(*[pair for pair in pairs if None not in pair], strict=True)
    return paired_ratio(ours, theirs), paired_interval(ours, theirs)


def page_table1(data: dict[str, Any]) -> list[str]:
    over = {m["name"]: beside(data, m["name"], RULE) for m in data["methods"]}
    columns: list[Column] = [
        *(RATE, *SPEEDUP),
        (f"beside {RULE}", lambda m: number(over[m["name"]][0])),
        ("95%", lambda m: span(over[m["name"]][1])),
        END_TO_END,
        ("worst text", lambda m: number(m["worst_item_speedup"])),
        *COUNTED,
    ]
    text = (
        f"{setting(data)} Speed-ups are over `{REFERENCE}`, decoding only; end to end: with both "
        "prefills. `static, draft pruned` is SpecVLM (Ji) as published. A `best-static` tree was "
        f"chosen on other texts; {data['typical_nodes']} nodes are what `{RULE}` verifies a step "
        f"on average there, 25 those of SpecVLM's tree, 64 the limit of `{RULE}`. `sage` is this "
        "project's own policy."
    )
    return [text, "", *methods_table({m["name"]: m for m in data["methods"]}, columns)]


def draw_table1(data: dict[str, Any]) -> Any:
    ours = [m["name"] for m in data["methods"] if m["name"].startswith("sage")]
    return speedups(data, ours, "speed-up over autoregressive, ratio of paired medians, 95%")


TABLE1 = Part(
    "Every method, as published and at equal node budgets (Table 1)",
    run_table1,
    page_table1,
    draw_table1,
)


# Ablation

CHANGES: dict[str, tuple[str, ...]] = {
    "α of the step's own root": ("lookahead=false",),
    "history": ("history=0", "raise_by=0"),
    "Eq. 12": ("scale_width=false", "parent=cumulative"),
    "k": ("k=4", "k=6", "k=16", "k=32"),
    "θ": ("theta=0", "theta=0.02", "theta=0.05", "theta=0.2", "theta=0.4"),
    "depths": (
        *("dmin=1,dmax=3", "dmin=1,dmax=5", "dmin=1", "dmax=5", "dmax=12"),
        *("dmin=5,dmax=5", "dmin=8"),
    ),
    "widths": ("wmin=1,wmax=1", "wmin=1,wmax=4", "wmax=4", "wmin=4,wmax=16", "wmin=10"),
    "nodes": ("nmax=8", "nmax=16", "nmax=32"),
}
"""Options of the published rule, one changed at a time."""


def variants() -> list[str]:
    """The published rule, and every change of it."""
    return [RULE, *(f"{RULE}:{change}" for group in CHANGES.values() for change in group)]


def page_ablation(data: dict[str, Any]) -> list[str]:
    rule = data["methods"][0]["mean_accepted"]
    columns: list[Column] = [
        *(RATE, *SPEEDUP),
        ("target passes", lambda m: number((rule + 1) / (m["mean_accepted"] + 1))),
        *COUNTED,
    ]
    text = (
        f"{setting(data)} Speed-ups and target passes (for the same text, so that below 1 is less "
        f"work) are over the published rule, `{RULE}`."
    )
    rows = {f"`{m['name']}`": m for m in data["methods"]}
    return [text, "", *methods_table(rows, columns, "policy")]


ABLATION = Part(
    "The published rule, one option changed at a time",
    lambda bench: bench.measure([bench.method(spec) for spec in variants()], 10, 1),
    page_ablation,
    lambda data: speedups(data, [], "tokens/s beside the published rule, 95% interval"),
)


# Table 5

RATIOS = (0.0, 0.3, 0.6, 0.7, 0.8, 0.9, 0.95)
TABLE5 = {0.0: 2.37, 0.3: 2.70, 0.6: 3.13, 0.7: 3.25, 0.8: 3.35, 0.9: 3.36, 0.95: 3.23}
"""Speed-ups that the paper reports, LLaVA-OneVision 72B with 7B."""


def run_pruning(bench: Bench) -> dict[str, Any]:
    methods = [bench.method(REFERENCE)]
    methods += [bench.method(RULE, f"{r:g}", Pruning(r, "verifier")) for r in RATIOS]
    prompts = [item.prompt_tokens for item in bench.inputs(8)]
    return {**bench.measure(methods, 8, 1), "prompt_tokens": median(prompts)}


def page_pruning(data: dict[str, Any]) -> list[str]:
    columns: list[Column] = [
        *(ACCEPTED, RATE, *SPEEDUP, END_TO_END),
        (
            "draft prefill, ms",
            lambda m: number(1000 * m["seconds"]["prefill_draft"] / m["items"], 1),
        ),
        EXACT,
        ("paper", lambda m: number(TABLE5.get(float(m["name"])))),
    ]
    rows = {m["name"]: m for m in data["methods"] if m["name"] != data["reference"]}
    text = (
        f"`{RULE}` with the ranking of SpecVLM (`verifier`), prompts of "
        f"{data['prompt_tokens']:.0f} tokens (median). {setting(data)} Speed-ups are over "
        f"`{REFERENCE}`. The last column is the paper's, of other models on GPUs."
    )
    return [text, "", *methods_table(rows, columns, "left out")]


def draw_pruning(data: dict[str, Any]) -> Any:
    rows = [m for m in data["methods"] if m["name"] != data["reference"]]
    x = [float(m["name"]) for m in rows]
    tau = {RULE: (x, [m["mean_accepted"] for m in rows], None)}
    speed = {
        RULE: (x, [m["speedup"] for m in rows], [m["speedup_interval"] for m in rows]),
        "paper": (list(TABLE5), list(TABLE5.values()), None),
    }
    label = "share of visual tokens left out"
    return plots.panels([("accepted length τ", label, tau), ("speed-up", label, speed)])


PRUNING = Part(
    "Pruning the draft's visual tokens (Table 5)", run_pruning, page_pruning, draw_pruning
)


# Table 6

OPERATIONS = {
    "prefill_target": "target prefill",
    "prefill_draft": "draft prefill",
    "draft": "drafting",
    "verify": "verification",
    "plan": "planning",
    "accept": "accept",
    "commit": "commit",
}
TABLE6 = {
    "prefill_target": 0.267,
    "prefill_draft": 0.008,
    "draft": 0.348,
    "verify": 0.366,
    "plan": 0.0039,
}
"""As the paper reports; planning is called tree update there."""


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Each operation's share of the wall time, and the ``rest`` that no clock held.

    Args:
        seconds: by operation, with ``prefill`` and ``decode``: wall time before and after the
            first token.

    Raises:
        ValueError: no time passed, or the operations took longer than the wall time.
    """
    wall = seconds["prefill"] + seconds["decode"]
    held = sum(seconds[name] for name in OPERATIONS)
    if wall <= 0:
        raise ValueError("no time passed")
    if held > 1.02 * wall:  # medians of repeats need not add up exactly
        raise ValueError(f"the operations took {held} s of {wall} s")
    found = {name: seconds[name] / wall for name in OPERATIONS}
    return {**found, "rest": max(0.0, 1 - held / wall)}


def run_shares(bench: Bench) -> dict[str, Any]:
    bench = replace(bench, clock="wall")  # as the operations are
    methods = [bench.method(name) for name in (REFERENCE, "static", RULE, "sage")]
    report = bench.measure(methods, 4, 2)
    rows = [
        {name: m[name] for name in ("name", "seconds", "new_tokens")}
        | {"shares": shares(m["seconds"])}
        for m in report["methods"]
    ]
    return {"settings": report["settings"], "methods": rows}


def page_shares(data: dict[str, Any]) -> list[str]:
    methods = data["methods"]

    def rows() -> Iterator[list[str]]:
        for name, title in (OPERATIONS | {"rest": "rest (loop, Python)"}).items():
            yield [title, *(percent(m["shares"][name]) for m in methods), percent(TABLE6.get(name))]
        spent = (1000 * (m["seconds"]["prefill"] + m["seconds"]["decode"]) for m in methods)
        each = [number(s / m["new_tokens"], 1) for s, m in zip(spent, methods, strict=True)]
        yield ["ms a token, all in", *each, "–"]

    return [
        f"{data['settings']['items']} texts. The prefill includes the encoding of the images. The "
        "column on the right is the paper's, of other models on GPUs.",
        "",
        *table(["operation", *(m["name"] for m in methods), "paper"], rows()),
    ]


def draw_shares(data: dict[str, Any]) -> Any:
    titles = {**OPERATIONS, "rest": "rest"}
    rows = [(m["name"], {titles[k]: v for k, v in m["shares"].items()}) for m in data["methods"]]
    paper = {OPERATIONS[k]: v for k, v in TABLE6.items()}
    return plots.stacked([*rows, ("paper: SAGE", paper)], "share of time")


SHARES = Part("Share of time by operation (Table 6)", run_shares, page_shares, draw_shares)

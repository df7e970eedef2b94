"""The changes of `ablation` that matter most, timed on one machine."""

from __future__ import annotations

from typing import Any

from benchmarks.evidence.ablation import PUBLISHED
from benchmarks.evidence.bench import Bench
from benchmarks.evidence.drawing import bars
from benchmarks.evidence.page import TIME, counted, number, span, table

TITLE = "Changes to the published rule, timed"
ITEMS, REPEATS = 10, 1
CHANGES = (
    "lookahead=false",
    "history=0",
    "scale_width=false",
    "theta=0.05",
    "theta=0.2",
    "dmax=5",
    "dmax=12",
    "wmin=1,wmax=4",
)


def run(bench: Bench) -> dict[str, Any]:
    methods = [bench.method(PUBLISHED)]
    methods += [bench.method(f"{PUBLISHED}:{change}") for change in CHANGES]
    return bench.measure(methods, ITEMS, REPEATS)


def page(data: dict[str, Any]) -> list[str]:
    settings = data["settings"]
    rows = [
        [
            f"`{m['name']}`",
            number(m["tokens_per_second"], 1),
            number(m["speedup"]),
            span(m["speedup_interval"]),
            *counted(m),
        ]
        for m in data["methods"]
    ]
    head = ["policy", "tokens/s", "beside the published", "95%", "τ", "nodes/step"]
    return [
        f"{settings['items']} texts, {settings['repeats']} repeats, in rotated order; "
        f"{TIME[settings['clock']]}. Beside the "
        "published: ratio of paired medians over `sage-paper`, with its 95% interval over texts.",
        "",
        *table([*head, "draft passes/step", "exact"], rows),
    ]


def draw(data: dict[str, Any]) -> Any:
    rows = [
        (
            m["name"].partition(":")[2] or "as published",
            m["speedup"],
            m["speedup_interval"],
            f"τ {m['mean_accepted']:.2f}",
        )
        for m in data["methods"]
        if m["speedup"] is not None
    ]
    return bars(rows, "tokens/s beside the published rule, 95% interval", [rows[0][0]])

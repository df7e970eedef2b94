"""Table 6: where the time goes, operation by operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.evidence.bench import REFERENCE, Bench
from benchmarks.evidence.drawing import stacked
from benchmarks.evidence.page import number, percent, table

TITLE = "Share of time by operation (Table 6)"
ITEMS, REPEATS = 4, 2
METHODS = (REFERENCE, "static", "sage-paper", "sage")
OPERATIONS = {
    "prefill_target": "target prefill",
    "prefill_draft": "draft prefill",
    "draft": "drafting",
    "verify": "verification",
    "plan": "planning",
    "accept": "accept",
    "commit": "commit",
}
PAPER = {
    "prefill_target": 0.267,
    "prefill_draft": 0.008,
    "draft": 0.348,
    "verify": 0.366,
    "plan": 0.0039,
}
"""As reported; planning is called tree update there."""


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Each operation's share of the time on the wall, and the ``rest`` that no clock held.

    Args:
        seconds: by operation, with ``prefill`` and ``decode``: the wall before and after the
            first token.

    Raises:
        ValueError: no time passed, or the operations took longer than the wall saw.
    """
    wall = seconds["prefill"] + seconds["decode"]
    held = sum(seconds[name] for name in OPERATIONS)
    if wall <= 0:
        raise ValueError("no time passed")
    if held > 1.02 * wall:  # medians of repeats need not add up exactly
        raise ValueError(f"the operations took {held} s of {wall} s")
    found = {name: seconds[name] / wall for name in OPERATIONS}
    return {**found, "rest": max(0.0, 1 - held / wall)}


def run(bench: Bench) -> dict[str, Any]:
    bench = replace(bench, clock="wall")  # as the operations are
    report = bench.measure([bench.method(name) for name in METHODS], ITEMS, REPEATS)
    return {
        "settings": report["settings"],
        "methods": [
            {
                "name": m["name"],
                "seconds": m["seconds"],
                "new_tokens": m["new_tokens"],
                "shares": shares(m["seconds"]),
            }
            for m in report["methods"]
        ],
    }


def page(data: dict[str, Any]) -> list[str]:
    methods = data["methods"]
    rows = [
        [title, *(percent(m["shares"][name]) for m in methods), percent(PAPER.get(name))]
        for name, title in OPERATIONS.items()
    ]
    rows.append(["rest (loop, Python)", *(percent(m["shares"]["rest"]) for m in methods), "–"])
    wall = [m["seconds"]["prefill"] + m["seconds"]["decode"] for m in methods]
    spent = [number(1000 * s / m["new_tokens"], 1) for s, m in zip(wall, methods, strict=True)]
    rows.append(["ms a token, all in", *spent, "–"])
    return [
        f"{data['settings']['items']} texts. The prefill holds the encoding of the pictures. The "
        "column on the right is the paper's, of other models on GPUs.",
        "",
        *table(["operation", *(m["name"] for m in methods), "paper"], rows),
    ]


def draw(data: dict[str, Any]) -> Any:
    titles = {**OPERATIONS, "rest": "rest"}
    rows = [(m["name"], {titles[k]: v for k, v in m["shares"].items()}) for m in data["methods"]]
    paper = {OPERATIONS[k]: v for k, v in PAPER.items()}
    return stacked([*rows, ("paper: SAGE", paper)], "share of time")

"""`sage bench --compare all`: every method that there is, transformers' own among them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.evidence import table1
from benchmarks.evidence.bench import Bench
from benchmarks.evidence.page import counted, number, span, table
from sage_core.models.catalog import BUNDLED

TITLE = "Every method that there is"
ITEMS, REPEATS = 12, 1


def run(bench: Bench) -> dict[str, Any]:
    """What the command itself reports, in a process of its own.

    Raises:
        subprocess.CalledProcessError: it failed; what it said is on stderr.
    """
    options = ["--items", bench.items or ITEMS, "--repeats", bench.repeats or REPEATS, "--json"]
    if bench.pair.target_id != BUNDLED:  # which the command takes by itself
        options += ["--model", bench.pair.target_id, "--draft", bench.pair.draft_id]
    words = ["bench", "--compare", "all", *map(str, options)]
    done = subprocess.run(
        [sys.executable, "-m", "sage_cli", *words], stdout=subprocess.PIPE, check=True
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def page(data: dict[str, Any]) -> list[str]:
    settings = data["settings"]
    best = data["calibration"].get("transformers-assisted-best", {}).get("setting", "none")
    rows = [
        [
            f"`{m['name']}`",
            number(m["tokens_per_second"], 1),
            number(m["speedup"]),
            span(m["speedup_interval"]),
            number(m["end_to_end_speedup"]),
            number(m["worst_item_speedup"]),
            *counted(m),
        ]
        for m in data["methods"]
    ]
    head = ["method", "tokens/s", "speed-up", "95%", "end to end", "worst text", "τ"]
    head += ["nodes/step", "draft passes/step", "exact"]
    return [
        f"{len(data['items'])} held-out items of all six categories, short answers among them; "
        f"{settings['repeats']} repeat(s), {data['methods'][0]['timed_items']} of the items long "
        f"enough to be timed. The best assisted setting on other items was `{best}`. How it is "
        "measured: [docs/bench.md](../../../docs/bench.md).",
        "",
        *table(head, rows),
    ]


draw = table1.draw

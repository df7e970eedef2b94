"""Table 5: how much of the picture the draft can do without."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.evidence.bench import REFERENCE, Bench
from benchmarks.evidence.drawing import panels
from benchmarks.evidence.page import TIME, number, span, table
from sage_core.drafts.pruning.options import Pruning

TITLE = "Pruning the draft's visual tokens (Table 5)"
ITEMS, REPEATS = 8, 1
RATIOS = (0.0, 0.3, 0.6, 0.7, 0.8, 0.9, 0.95)
PAPER = {0.0: 2.37, 0.3: 2.70, 0.6: 3.13, 0.7: 3.25, 0.8: 3.35, 0.9: 3.36, 0.95: 3.23}
"""Speed-ups that the paper reports, LLaVA-OneVision 72B with 7B."""


def run(bench: Bench) -> dict[str, Any]:
    methods = [bench.method(REFERENCE)]
    methods += [bench.method("sage-paper", f"{r:g}", Pruning(r, "verifier")) for r in RATIOS]
    prompts = [item.prompt_tokens for item in bench.inputs(ITEMS)]
    return {**bench.measure(methods, ITEMS, REPEATS), "prompt_tokens": median(prompts)}


def page(data: dict[str, Any]) -> list[str]:
    settings = data["settings"]
    lines = [
        f"`sage-paper` with the ranking of SpecVLM (`verifier`), {settings['items']} texts, "
        f"{settings['repeats']} repeats, prompts of {data['prompt_tokens']:.0f} tokens (median); "
        f"{TIME[settings['clock']]}. "
        "The last column is the paper's, of other models on GPUs.",
        "",
    ]
    head = ["left out", "τ", "tokens/s", "speed-up", "95%", "end to end", "draft prefill, ms"]
    rows = [
        [
            m["name"],
            number(m["mean_accepted"]),
            number(m["tokens_per_second"], 1),
            number(m["speedup"]),
            span(m["speedup_interval"]),
            number(m["end_to_end_speedup"]),
            number(1000 * m["seconds"]["prefill_draft"] / m["items"], 1),
            f"{m['exact']}/{m['compared']}",
            number(PAPER.get(float(m["name"]))),
        ]
        for m in data["methods"]
        if m["name"] != data["reference"]
    ]
    return lines + table([*head, "exact", "paper"], rows)


def draw(data: dict[str, Any]) -> Any:
    rows = [m for m in data["methods"] if m["name"] != data["reference"]]
    x = [float(m["name"]) for m in rows]
    tau = {"sage-paper": (x, [m["mean_accepted"] for m in rows], None)}
    speed = {
        "sage-paper": (x, [m["speedup"] for m in rows], [m["speedup_interval"] for m in rows]),
        "paper": (list(PAPER), list(PAPER.values()), None),
    }
    label = "share of visual tokens left out"
    return panels([("accepted length τ", label, tau), ("speed-up", label, speed)])

"""Does ViSkip pay? Speed and skipped steps by the share of attention on visual tokens.

    python -m benchmarks.viskip --output benchmarks/results/viskip

Held-out items, one text each, by every policy and threshold. Thresholds are the published one and
those above which a tenth, a quarter and half of the steps of these texts lie, since models differ
in their shares. First the premise: accepted length by that share. All texts are compared with
those for which nothing is skipped.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np

from benchmarks import environment, harness
from benchmarks.harness import LEAST, Decoded, Tally, number, percent
from sage_core.pipeline import Pipeline
from training.world.inputs import Item, items

POLICIES = ("static", "sage")
ABOVE = (0.1, 0.25, 0.5)
PUBLISHED = 0.35
NEVER = 1.0
"""A threshold that no share exceeds: attention is observed and nothing is skipped."""


def decode(pipeline: Pipeline, policy: str, share: float | None, item: Item) -> Decoded:
    return Decoded.of(pipeline.ask(item.media, item.prompt, policy=policy, viskip=share))


def observed(text: Decoded) -> list[tuple[float, int]]:
    """(share, accepted length) of every step that drafted, of a text without skipped steps."""
    found = []
    for step in text.result.steps:
        share, _, rest = step.shape.note.rpartition("; ")[2].partition(" of the attention")
        if rest and len(step.tree):
            found.append((float(share), len(step.accepted)))
    return found


def premise(pairs: list[tuple[float, int]]) -> list[dict[str, Any]]:
    """Accepted length by quarter of the steps, ordered by their share."""
    ordered = sorted(pairs)
    quarters = (ordered[len(ordered) * i // 4 : len(ordered) * (i + 1) // 4] for i in range(4))
    return [
        {
            "low": part[0][0],
            "high": part[-1][0],
            "steps": len(part),
            "accepted": float(np.mean([accepted for _, accepted in part])),
        }
        for part in quarters
    ]


def measure(pipeline: Pipeline, count: int, seed: int) -> dict[str, Any]:
    """The premise, and figures by policy and threshold."""
    inputs = list(items(count, seed))
    seen = [pair for item in inputs for pair in observed(decode(pipeline, "static", NEVER, item))]
    thresholds: dict[str, float | None] = {
        "never": None,
        "observed only": NEVER,
        f"published {PUBLISHED}": PUBLISHED,
    }
    for part in ABOVE:
        share = float(np.quantile([share for share, _ in seen], 1 - part))
        thresholds[f"{share:.2f}, {part:.0%} above"] = share
    results = {}
    for policy in POLICIES:
        methods = {n: partial(decode, pipeline, policy, s) for n, s in thresholds.items()}
        tallies = {name: Tally() for name in methods}
        for _, found in harness.interleaved(inputs, methods):
            for name, (text,) in found.items():
                skipped = sum("viskip" in step.shape.note for step in text.result.steps)
                tallies[name].add([text], found["never"][0].tokens, skipped=skipped)
        results[policy] = harness.figures(tallies)
    return {"premise": premise(seen), "results": results}


def report(data: dict[str, Any]) -> str:
    columns = [
        *(harness.SPEED, harness.SPEEDUP),
        ("skipped", lambda row: percent(row["skipped"] / row["steps"], 0)),
        *(harness.ACCEPTED, harness.EXACT),
    ]
    shares = [
        [f"{p['low']:.2f} to {p['high']:.2f}", p["steps"], number(p["accepted"])]
        for p in data["premise"]
    ]
    notes = [
        f"{data['items']} held-out items; tokens/s: median over texts of at least {LEAST} tokens; "
        f"speed-up: median of the texts' own ratios to never skipping; {harness.TAU}"
    ]
    title = "## Accepted length by attention on visual tokens, policy static, nothing skipped"
    return harness.report(
        "ViSkip",
        data,
        notes,
        [title, "", *harness.table(["share of attention", "steps", "τ"], shares)],
        *(
            [f"## {policy}", "", *harness.methods_table(rows, columns, "skip from")]
            for policy, rows in data["results"].items()
        ),
    )


def main(argv: list[str] | None = None) -> int:
    """Measure, report; returns 1 if any text differs from the one without skipped steps."""
    parser = harness.options(__doc__, items=36, seed=9)
    parser.set_defaults(dtype="float32")
    arguments = parser.parse_args(argv)
    pair = harness.load(arguments)
    data = harness.described("benchmarks.viskip", arguments, pair)
    data |= measure(Pipeline(pair), arguments.items, arguments.seed)
    environment.write(arguments.output, data, report(data))
    return int(not all(harness.all_exact(rows.values()) for rows in data["results"].values()))


if __name__ == "__main__":
    sys.exit(main())

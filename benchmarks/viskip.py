"""Does ViSkip pay on the bundled pair? Speed and skipped steps by the share of attention.

    python -m benchmarks.viskip --output benchmarks/results/viskip

Held-out items, one text each, by every policy and share. Shares are the published one and such that
a tenth, a quarter and half of the steps of these texts lie above, since no model's shares are
another's. Beside it the premise: how much is accepted behind rows that lean on the picture and
behind those that do not. All texts are compared with those that never skip.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from benchmarks import environment
from benchmarks.pairs import measured_pair
from sage_core.pipeline import Pipeline
from sage_core.stream import Result
from training.world.inputs import items

POLICIES = ("static", "sage")
ABOVE = (0.1, 0.25, 0.5)
PUBLISHED = 0.35
LEAST = 8
"""Texts of fewer tokens have no speed."""
_NEVER = 1.0


@dataclass
class Tally:
    """Of all texts of one way: sums, and the speed of each text that is long enough."""

    rates: list[float | None] = field(default_factory=list)
    steps: int = 0
    skipped: int = 0
    accepted: float = 0.0
    texts: int = 0
    exact: int = 0

    def add(self, result: Result, expected: Result) -> None:
        stats = result.stats
        self.rates.append(stats.tokens_per_second if stats.new_tokens >= LEAST else None)
        self.steps += stats.steps
        self.skipped += sum("viskip" in step.shape.note for step in result.steps)
        self.accepted += stats.accepted
        self.texts += 1
        self.exact += result.tokens == expected.tokens


def looked(result: Result) -> list[tuple[float, int]]:
    """(share, accepted) of every step that drafted, of a text that never skipped."""
    found = []
    for step in result.steps:
        share, _, rest = step.shape.note.rpartition("; ")[2].partition(" of the attention")
        if rest and len(step.tree):
            found.append((float(share), len(step.accepted)))
    return found


def premise(pairs: list[tuple[float, int]]) -> list[dict[str, Any]]:
    """Accepted length by quarter of the steps, those that lean on the picture least first."""
    ordered = sorted(pairs)
    return [
        {
            "low": part[0][0],
            "high": part[-1][0],
            "steps": len(part),
            "accepted": float(np.mean([accepted for _, accepted in part])),
        }
        for part in (ordered[len(ordered) * i // 4 : len(ordered) * (i + 1) // 4] for i in range(4))
    ]


def measure(pipeline: Pipeline, count: int) -> dict[str, Any]:
    """Every policy and share on every item."""
    inputs = list(items(count, seed=9))

    def decode(number: int, policy: str, share: float | None) -> Result:
        item = inputs[number]
        return pipeline.ask(item.media, item.prompt, policy=policy, viskip=share)

    seen = [pair for number in range(count) for pair in looked(decode(number, "static", _NEVER))]
    shares = [float(np.quantile([share for share, _ in seen], 1 - part)) for part in ABOVE]
    ways: dict[str, float | None] = {
        "never": None,
        "watching only": _NEVER,
        "published 0.35": PUBLISHED,
    }
    for part, share in zip(ABOVE, shares, strict=True):
        ways[f"{share:.2f}, {part:.0%} above"] = share
    names = list(ways)
    tallies = {policy: {name: Tally() for name in names} for policy in POLICIES}
    for policy in POLICIES:
        for number in range(count):
            turn = number % len(names)
            found = {n: decode(number, policy, ways[n]) for n in names[turn:] + names[:turn]}
            for name in names:
                tallies[policy][name].add(found[name], found["never"])
            print(f"\r{policy}: {number + 1} of {count}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    results = {p: {n: dict(vars(t)) for n, t in ts.items()} for p, ts in tallies.items()}
    return {"premise": premise(seen), "results": results}


def report(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# ViSkip", "", *environment.as_markdown(data["environment"])]
    lines += [
        f"- pair: {data['target']} with {data['draft']}; {data['items']} held-out items; tokens/s: "
        f"median over texts of at least {LEAST} tokens; ×: median of the texts' own ratios to "
        "never skipping",
        "",
        "## Accepted length by attention on the picture, policy static, nothing skipped",
        "",
        "| share of attention | steps | τ |",
        "|---|--:|--:|",
    ]
    lines += [
        f"| {part['low']:.2f} to {part['high']:.2f} | {part['steps']} | {part['accepted']:.2f} |"
        for part in data["premise"]
    ]
    for policy, tallies in data["results"].items():
        lines += ["", f"## {policy}", "", "| skip from | tokens/s | × | skipped | τ | exact |"]
        lines.append("|---|--:|--:|--:|--:|--:|")
        base = tallies["never"]["rates"]
        for name, tally in tallies.items():
            pairs = [(r, e) for r, e in zip(tally["rates"], base, strict=True) if r and e]
            speed, ratio = median(r for r, _ in pairs), median(r / e for r, e in pairs)
            steps = max(1, tally["steps"])
            lines.append(
                f"| {name} | {speed:.0f} | {ratio:.2f} | {tally['skipped'] / steps:.0%} "
                f"| {tally['accepted'] / steps:.2f} | {tally['exact']}/{tally['texts']} |"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure, report; returns 1 if any text differs from the one that never skips."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=36)
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    arguments = parser.parse_args(argv)
    pair = measured_pair(dtype="float32")
    data = {
        "environment": environment.describe("benchmarks.viskip"),
        "target": pair.target_id,
        "draft": pair.draft_id,
        "items": arguments.items,
        **measure(Pipeline(pair), arguments.items),
    }
    environment.write(arguments.output, data, report(data))
    tallies = [tally for ways in data["results"].values() for tally in ways.values()]
    return int(any(tally["exact"] < tally["texts"] for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())

"""Time of a token against the length of the context.

    python -m benchmarks.growth --output benchmarks/results/growth
    python -m benchmarks.growth --contexts 1024,32768 --pair DIR --device cuda

The prompt is a long question of the held-out kind, repeated: its meaning does not matter, since
time is measured and the text is compared with `generate`'s. Every method decodes the same number
of tokens behind the same prompt, in rotated order. A chain always drafts, so that its column shows
what a step costs whatever is accepted. For answers of growing length:
`python -m benchmarks.evidence --only lengths`.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import environment, harness, plots
from benchmarks.harness import number
from sage_core.pair_loading import LoadedPair

METHODS = ("generate", "autoregressive", "chain", "sage")


def prompt(pair: LoadedPair, tokens: int) -> dict[str, torch.Tensor]:
    """Text of exactly so many tokens."""
    words = pair.family.tokenizer("Which bar is the tallest? Explain your answer. ")["input_ids"]
    ids = (words * (tokens // len(words) + 1))[:tokens]
    given = torch.tensor([ids], device=pair.target.device)
    return {"input_ids": given, "attention_mask": torch.ones_like(given)}


def measure(pair: LoadedPair, arguments: Namespace) -> list[dict[str, Any]]:
    """For each context milliseconds a token by method, and those of the chain's steps."""
    new = arguments.new_tokens
    limits = {"max_new_tokens": new, "min_new_tokens": new}
    methods: dict[str, Any] = {METHODS[0]: partial(harness.by_generate, pair, **limits)}
    for policy in METHODS[1:]:
        methods[policy] = partial(harness.by_engine, harness.decoder(pair, policy), **limits)
    prompts = (prompt(pair, context) for context in arguments.contexts)
    rows = []
    for inputs, found in harness.interleaved(prompts, methods, arguments.repeats):
        expected = found[METHODS[0]][0].tokens
        row = {"context": inputs["input_ids"].shape[1]}
        row["exact"] = sum(found[policy][-1].tokens == expected for policy in METHODS[1:])
        chain = found["chain"][-1].stats
        row["chain_step_ms"] = 1e3 * chain.decode_seconds / chain.steps
        row["chain_draft_pass_ms"] = 1e3 * chain.seconds.draft / chain.draft_passes
        for name, each in found.items():
            row[f"{name}_ms"] = 1e3 * median(one.seconds for one in each) / (new - 1)
        rows.append(row)
    return rows


def report(data: dict[str, Any]) -> str:
    columns = [*METHODS, "chain_step", "chain_draft_pass"]
    rows = [
        [
            row["context"],
            *(number(row[f"{name}_ms"]) for name in columns),
            f"{row['exact']}/{len(METHODS) - 1}",
        ]
        for row in data["rows"]
    ]
    head = ["context", *(f"{name}, a token" for name in METHODS)]
    table = harness.table([*head, "chain, a step", "chain, a draft pass", "exact"], rows)
    notes = [
        f"{data['new_tokens']} new tokens, medians of {data['repeats']}; milliseconds",
    ]
    return harness.report("Time against context", data, notes, table)


def draw(data: dict[str, Any]) -> Any:
    """Milliseconds a token against the context."""
    contexts = [row["context"] for row in data["rows"]]
    lines = {name: (contexts, [r[f"{name}_ms"] for r in data["rows"]], None) for name in METHODS}
    chart = ("milliseconds a token", "tokens of context", lines)
    return plots.panels([chart], logarithmic=True)


def main(argv: list[str] | None = None) -> int:
    """Measure, report; returns 1 if in float32 any text differs from `generate`'s."""
    parser = harness.options(
        __doc__,
        contexts=(512, 1024, 2048, 4096, 8192),
        new_tokens=48,
        repeats=3,
        files="FILE.json, FILE.md and FILE.png",
    )
    arguments = parser.parse_args(argv)
    pair = harness.load(arguments)
    data = harness.described("benchmarks.growth", arguments, pair)
    data["rows"] = measure(pair, arguments)
    environment.write(arguments.output, data, report(data))
    if arguments.output:
        plots.save(draw, data, Path(arguments.output))
    exact = all(row["exact"] == len(METHODS) - 1 for row in data["rows"])
    return int(not exact and pair.dtype == "float32")


if __name__ == "__main__":
    sys.exit(main())

"""What decoding several texts at once brings, over the same texts one by one.

    python -m benchmarks.batches --output benchmarks/results/batches
    python -m benchmarks.batches --widths 1,16 --policies "autoregressive;sage;chain:length=3"

Every policy decodes the same captions and answers one by one and in batches of several widths, in
rotated order. Time runs from the first prompt to the last token of all texts, prompts included;
images are prepared before. On a CPU it is processor time, so that other work on the machine counts
little; elsewhere it is wall time. All texts are compared with those of transformers' `generate`.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from time import perf_counter, process_time
from typing import Any

import torch

from benchmarks import environment, harness
from benchmarks.harness import REFERENCE, Tally, number
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.results import DecodeOutput
from sage_core.pair_loading import LoadedPair
from training.world.inputs import items

POLICIES = (REFERENCE, "spec-llava", "sage")
Texts = Sequence[dict[str, Any]]
Batch = tuple[float, list[DecodeOutput]]
"""Seconds of all texts, and the texts."""


def decode(decoder: SpeculativeDecoder, width: int, limit: int, texts: Texts) -> Batch:
    """All texts, ``width`` at once."""
    on_cpu = decoder.target.device.type == "cpu"
    clock = process_time if on_cpu else perf_counter
    started = clock()
    if width == 1:
        outputs = [decoder.generate(**inputs, max_new_tokens=limit) for inputs in texts]
    else:
        outputs = decoder.generate_batch(texts, width, max_new_tokens=limit)
    if not on_cpu:
        torch.cuda.synchronize()
    return clock() - started, outputs


def measure(pair: LoadedPair, arguments: Namespace) -> dict[tuple[str, int], Tally]:
    """A tally for every policy and width; a rate is that of one repeat over all texts."""
    limit = arguments.max_new_tokens
    texts = [harness.prepared(pair, item) for item in items(arguments.items, arguments.seed)]
    expected = [harness.by_generate(pair, one, max_new_tokens=limit).result for one in texts]
    policies = dict.fromkeys((REFERENCE, *arguments.policies))
    made = {policy: harness.decoder(pair, policy) for policy in policies}
    decoders = {(policy, width): made[policy] for policy in made for width in arguments.widths}
    methods = {f"{k[0]} {k[1]}": partial(decode, d, k[1], limit) for k, d in decoders.items()}
    tallies = {key: Tally() for key in decoders}
    for _, found in harness.interleaved([texts] * arguments.repeats, methods):
        for tally, ((seconds, outputs),) in zip(tallies.values(), found.values(), strict=True):
            tally.rates.append(sum(output.stats.new_tokens for output in outputs) / seconds)
            for output, ids in zip(outputs, expected, strict=True):
                tally.count(output.stats)
                tally.counts.update(texts=1, exact=int(torch.equal(output.sequences, ids)))
    return tallies


def figures(tallies: dict[tuple[str, int], Tally]) -> list[dict[str, Any]]:
    """Of each policy and width; ratios are medians over repeats of the repeat's own."""
    return [
        {
            "policy": policy,
            "width": width,
            "over_one_by_one": tally.figures(tallies[policy, 1])["speedup"],
            **tally.figures(tallies[REFERENCE, 1]),
        }
        for (policy, width), tally in tallies.items()
    ]


def report(data: dict[str, Any]) -> str:
    columns = [
        harness.SPEED,
        ("× one by one", lambda row: number(row["over_one_by_one"])),
        ("× autoregressive one by one", lambda row: number(row["speedup"])),
        harness.ACCEPTED,
        harness.NODES,
        harness.EXACT,
    ]
    rows = {f"{row['policy']} | {row['width']}": row for row in data["rows"]}
    head = "policy | texts at once"
    notes = [
        f"{data['items']} texts, limit {data['max_new_tokens']}, {data['repeats']} repeats",
        "tokens/s: new tokens over the seconds of all texts, prompts included: processor time "
        f"on a CPU, wall time elsewhere; {harness.TAU}",
        data["note"],
    ]
    table = harness.methods_table(rows, columns, head)
    table[1] = "|---" + table[1]
    return harness.report("Several texts at once", data, notes, table)


def main(argv: list[str] | None = None) -> int:
    """Measure, report; returns 1 if in float32 any text differs from `generate`'s."""
    parser = harness.options(
        __doc__,
        items=32,
        repeats=3,
        max_new_tokens=128,
        seed=1,
        policies=POLICIES,
        widths=(1, 2, 4, 8, 16),
        note="",
    )
    arguments = parser.parse_args(argv)
    arguments.widths = tuple(dict.fromkeys((1, *arguments.widths)))
    pair = harness.load(arguments)
    rows = figures(measure(pair, arguments))
    data = {**harness.described("benchmarks.batches", arguments, pair), "rows": rows}
    environment.write(arguments.output, data, report(data))
    return int(not harness.all_exact(rows) and pair.dtype == "float32")


if __name__ == "__main__":
    sys.exit(main())

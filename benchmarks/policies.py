"""Speed by policy on one pair in one run, with transformers' own `generate` beside it.

    python -m benchmarks.policies                              the bundled pair
    python -m benchmarks.policies --items 24 --repeats 3 --output benchmarks/results/policies
    python -m benchmarks.policies --pair DIR --policies "autoregressive;sage;chain:length=3"

Every item is decoded by every method, in rotated order. Decoding is timed from the first new token
to the last, so that reading the prompt and the images is left out for all methods. Items whose text
by `generate` has fewer than ``--least`` tokens are left out.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch

from benchmarks import environment, harness
from benchmarks.harness import GENERATE, REFERENCE, Decoded, Tally
from sage_core.engine.costs.store import CostStore
from sage_core.pair_loading import LoadedPair
from training.world.inputs import items

POLICIES = (REFERENCE, "chain", "static", "sage-paper", "sage")
Inputs = dict[str, Any]


def long_texts(pair: LoadedPair, arguments: Namespace) -> Iterator[Inputs]:
    """Inputs of items whose text is long enough."""
    for item in items(1000, arguments.seed):
        inputs = harness.prepared(pair, item)
        text = harness.by_generate(pair, inputs, max_new_tokens=arguments.max_new_tokens)
        if len(text.tokens) >= max(2, arguments.least):  # a rate needs a second token
            yield inputs


def measure(pair: LoadedPair, arguments: Namespace) -> dict[str, Tally]:
    """A tally a method, `generate` first."""
    limit, costs = {"max_new_tokens": arguments.max_new_tokens}, CostStore()
    methods: dict[str, Callable[[Inputs], Decoded]] = {
        GENERATE: lambda inputs: harness.by_generate(pair, inputs, **limit)
    }
    for policy in dict.fromkeys((REFERENCE, *arguments.policies)):
        decoder = harness.decoder(pair, policy, costs)
        methods[policy] = partial(harness.by_engine, decoder, **limit)
    texts = islice(long_texts(pair, arguments), arguments.items)
    return harness.tallied(texts, methods, arguments.repeats)


def summaries(tallies: dict[str, Tally]) -> dict[str, dict[str, Any]]:
    """The figures of each method, with its speed-up over the engine's loop and over `generate`."""
    to_generate = harness.figures(tallies, GENERATE)
    return {
        name: row | {"over_generate": to_generate[name]["speedup"]}
        for name, row in harness.figures(tallies, REFERENCE).items()
    }


def report(data: dict[str, Any]) -> str:
    rows = data["methods"]
    columns = [
        harness.SPEED,
        ("× autoregressive", lambda row: harness.number(row["speedup"])),
        harness.WORST,
        ("× generate", lambda row: harness.number(row["over_generate"])),
        harness.ACCEPTED,
        harness.NODES,
        harness.PASSES,
        harness.EXACT,
    ]
    return harness.report(
        "Speed by policy",
        data,
        [
            f"{rows[GENERATE]['texts']} items, {data['repeats']} repeats, "
            f"{rows[GENERATE]['new_tokens']} new tokens by `generate` "
            f"(limit {data['max_new_tokens']})",
            "tokens/s: median over items, from the first new token to the last; speed-ups: median "
            f"over items of the item's own ratio; {harness.TAU}",
        ],
        harness.methods_table(rows, columns),
    )


def main(argv: list[str] | None = None) -> int:
    """Measure, report; returns 1 if in float32 any text differs from `generate`'s."""
    parser = harness.options(
        __doc__, items=16, repeats=2, max_new_tokens=256, least=16, seed=1, policies=POLICIES
    )
    parser.set_defaults(draft="auto")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    pair = harness.load(arguments)
    rows = summaries(measure(pair, arguments))
    data = {**harness.described("benchmarks.policies", arguments, pair), "methods": rows}
    environment.write(arguments.output, data, report(data))
    return int(not harness.all_exact(rows.values()) and pair.dtype == "float32")


if __name__ == "__main__":
    sys.exit(main())

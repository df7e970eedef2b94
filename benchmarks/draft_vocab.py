"""What a draft loses that scores a part of the vocabulary, by the size of the list.

    python -m benchmarks.draft_vocab --output benchmarks/results/draft-vocab

Accepted length and speed of a pair under lists of several sizes, counted from the target's own
answers to other items. What a list saves shows where the vocabulary is large (`--pair`): the
bundled one has 1,408 tokens.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks import environment, harness
from benchmarks.harness import LEAST, REFERENCE, Decoded, Tally, percent
from sage_core.drafts.vocab.token_list import DraftVocab
from sage_core.pair_loading import LoadedPair
from sage_core.runtime.backend import EagerBackend
from sage_core.trees.pass_costs import Costs
from training.world.inputs import items

SIZES = (512, 256, 128, 64, 32)
POLICIES = ("static", "sage")
COSTS = Costs.linear(target=8e-3, node=0.15e-3, draft=1.5e-3, row=0.03e-3)
"""Costs passed to the planner of `sage`, so that every list gets trees of the same rule."""


def on_pair(pair: LoadedPair, arguments: Namespace) -> dict[str, Any]:
    """Every list under every policy on every item, beside the whole vocabulary."""
    limit = arguments.max_new_tokens

    def inputs(count: int, seed: int) -> Iterator[dict[str, Any]]:
        return (harness.prepared(pair, item) for item in items(count, seed))

    def decode(decoder: Any, text: dict[str, Any]) -> Decoded:
        return Decoded.of(decoder.generate(**text, max_new_tokens=limit))

    counts: Counter[int] = Counter()
    for text in inputs(arguments.count_items, arguments.seed + 1000):
        counts.update(decode(harness.decoder(pair, "static"), text).tokens)
    special = [index for index in pair.family.tokenizer.all_special_ids if index in counts]
    sizes = [size for size in (len(counts), *SIZES) if size <= len(counts)]
    lists: dict[int, DraftVocab | None] = {0: None}
    lists |= {size: DraftVocab.counted_from(counts, special, size) for size in sizes}
    made = partial(harness.decoder, pair, costs=COSTS, backend=EagerBackend())
    methods = {REFERENCE: partial(decode, made(REFERENCE))}
    keys = {f"{policy} {size}": (policy, size) for policy in POLICIES for size in lists}
    for name, (policy, size) in keys.items():
        methods[name] = partial(decode, made(policy, draft_vocab=lists[size]))
    tallies = {name: Tally() for name in methods}
    written: Counter[int] = Counter()
    for _, found in harness.interleaved(inputs(arguments.items, arguments.seed), methods):
        expected = found[REFERENCE][0].tokens
        written.update(expected)
        for name, texts in found.items():
            tallies[name].add(texts, expected)
    vocabulary = int(pair.draft.get_output_embeddings().weight.shape[0])
    results = []
    for name, (policy, size) in keys.items():
        row = {"policy": policy, "tokens": size or vocabulary}
        row["covered"] = _covered(lists[size], written)
        results.append(row | tallies[name].figures(tallies[f"{policy} 0"]))
    return {"counted": counts.total(), "different": len(counts), "results": results}


def _covered(vocab: DraftVocab | None, written: Counter[int]) -> float:
    """The share of what was written that the list holds."""
    if vocab is None:
        return 1.0
    inside = {*vocab.ids, *vocab.always}
    return sum(n for token, n in written.items() if token in inside) / written.total()


def report(data: dict[str, Any]) -> str:
    pair = data["pair"]
    notes = [
        f"lists from {pair['counted']:,} tokens of the target's answers to "
        f"{data['count_items']} other items, which hold {pair['different']} different ones; "
        f"measured on {data['items']} items; covered: share of their answers' tokens in the list",
        "the planner of `sage` gets the same costs with every list: 8 ms, 0.15 ms a further node, "
        "1.5 ms a draft pass",
        f"tokens/s: median over answers of at least {LEAST} tokens, after the first; speed-up: "
        f"median of the answers' own ratios to the whole vocabulary; {harness.TAU}",
    ]
    columns = [
        ("covered", lambda row: percent(row["covered"], 2)),
        *(harness.ACCEPTED, harness.NODES, harness.SPEED, harness.SPEEDUP, harness.EXACT),
    ]
    rows = {f"{row['policy']}, {row['tokens']:,} tokens": row for row in pair["results"]}
    table = harness.methods_table(rows, columns)
    return harness.report("Drafts that score a part of the vocabulary", data, notes, table)


def main(argv: list[str] | None = None) -> int:
    """Measure, report; returns 1 if any answer differs from autoregressive decoding's."""
    parser = harness.options(__doc__, items=12, count_items=40, max_new_tokens=160, seed=6)
    arguments = parser.parse_args(argv)
    pair = harness.load(arguments)
    data = harness.described("benchmarks.draft_vocab", arguments, pair)
    data["pair"] = on_pair(pair, arguments)
    environment.write(arguments.output, data, report(data))
    return int(not harness.all_exact(data["pair"]["results"]))


if __name__ == "__main__":
    sys.exit(main())

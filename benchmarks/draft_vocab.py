"""What a draft that scores a part of the vocabulary saves, and what it loses.

    python -m benchmarks.draft_vocab --output benchmarks/results/draft-vocab

First the time of an LM head with the ranking of its candidates, by vocabulary, for drafts of
published shapes with random weights, beside the other layers of such a draft. Then accepted length
and speed of the bundled pair under lists of several sizes, counted from the target's own answers to
other items.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch

from benchmarks import environment, harness
from benchmarks.harness import LEAST, REFERENCE, Decoded, Tally, number, percent
from sage_core.drafts.vocab.reduced_lm_head import ReducedHead
from sage_core.drafts.vocab.token_list import DraftVocab
from sage_core.generation.candidates import TopK
from sage_core.pair_loading import LoadedPair
from sage_core.runtime.backend import EagerBackend
from sage_core.trees.pass_costs import Costs
from training.world.inputs import items

VOCABULARIES = (152_064, 64_000, 32_000, 16_000, 8_000, 4_000)
TOKENS = (1, 8)
CANDIDATES = 10
SIZES = (512, 256, 128, 64, 32)
POLICIES = ("static", "sage")
COSTS = Costs.linear(target=8e-3, node=0.15e-3, draft=1.5e-3, row=0.03e-3)
"""Costs passed to the planner of `sage`, so that every list gets trees of the same rule."""
SHAPES: dict[str, dict[str, int]] = {
    "0.5B (Qwen2)": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "intermediate_size": 4864,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "160M (LLaVA)": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
    },
}
"""Published drafts without their vocabulary."""


@dataclass(frozen=True, eq=False)
class _Model:
    """As much of a model as a reduced head is made from."""

    head: torch.nn.Module

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head


@torch.inference_mode()
def head_times(name: str, repeats: int) -> Iterator[dict[str, Any]]:
    """Milliseconds of a shape's head by vocabulary, in turn, so that noise falls on all."""
    from transformers import LlamaConfig, LlamaModel

    hidden_size = SHAPES[name]["hidden_size"]
    whole = torch.nn.Linear(hidden_size, VOCABULARIES[0], bias=False)
    whole.weight.normal_(0, 0.02)
    heads: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {VOCABULARIES[0]: whole}
    for size in VOCABULARIES[1:]:
        heads[size] = ReducedHead.of(_Model(whole), torch.randperm(VOCABULARIES[0])[:size].tolist())
    layers = LlamaModel(LlamaConfig(vocab_size=64, **SHAPES[name])).eval()
    top = TopK()
    for tokens in TOKENS:
        hidden = torch.randn(tokens, hidden_size)
        ids = torch.zeros((1, tokens), dtype=torch.int64)
        timed: dict[int, Callable[[], Any]] = {0: lambda ids=ids: layers(ids, use_cache=False)}
        for size, head in heads.items():
            timed[size] = lambda h=head, x=hidden: top.select(h(x).float(), CANDIDATES)
        times: dict[int, list[float]] = {size: [] for size in timed}
        for _ in range(repeats + 1):
            for size, one in timed.items():
                times[size].append(_milliseconds(one))
        rest = median(times.pop(0)[1:])
        for size, taken in times.items():
            row = {"shape": name, "tokens": tokens, "vocabulary": size, "layers_ms": rest}
            yield row | {"head_ms": median(taken[1:])}


def _milliseconds(work: Callable[[], Any]) -> float:
    started = perf_counter()
    work()
    return 1000 * (perf_counter() - started)


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
    blocks = []
    for tokens in TOKENS:
        rows = []
        for shape in SHAPES:
            mine = [h for h in data["heads"] if (h["shape"], h["tokens"]) == (shape, tokens)]
            most = max(h["head_ms"] + h["layers_ms"] for h in mine)
            for h in mine:
                share = number((h["head_ms"] + h["layers_ms"]) / most)
                times = number(h["head_ms"]), number(h["layers_ms"], 1)
                rows.append([shape, f"{h['vocabulary']:,}", *times, share])
        title = f"## Time of a head over {tokens} token{'s' * (tokens > 1)}"
        head = ["draft", "vocabulary", "head, ms", "layers, ms", "whole pass of 152k"]
        blocks.append([title, "", *harness.table(head, rows)])
    pair = data["pair"]
    notes = [
        f"heads: random float32 weights; median of {data['repeats']}; head: its product with the "
        f"hidden states and the {CANDIDATES} likeliest tokens with their probabilities; layers: "
        "the rest of a pass without context",
        f"pair: lists from {pair['counted']:,} tokens of the target's answers to "
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
    blocks.append(["## The pair", "", *harness.methods_table(rows, columns)])
    return harness.report("Drafts that score a part of the vocabulary", data, notes, *blocks)


def main(argv: list[str] | None = None) -> int:
    """Measure, report; returns 1 if any answer differs from autoregressive decoding's."""
    parser = harness.options(
        __doc__, items=12, count_items=40, max_new_tokens=160, repeats=9, seed=6
    )
    arguments = parser.parse_args(argv)
    torch.manual_seed(arguments.seed)
    pair = harness.load(arguments)
    data = harness.described("benchmarks.draft_vocab", arguments, pair)
    data["pair"] = on_pair(pair, arguments)
    data["heads"] = [row for name in SHAPES for row in head_times(name, arguments.repeats)]
    environment.write(arguments.output, data, report(data))
    return int(not harness.all_exact(data["pair"]["results"]))


if __name__ == "__main__":
    sys.exit(main())

"""What a draft that scores a part of the vocabulary saves, and what it loses.

    python -m benchmarks.draft_vocab --output benchmarks/results/draft-vocab

First the time of a head with the ranking of its candidates, by vocabulary, for drafts of published
shapes with random weights, beside the rest of such a draft's pass. Then accepted length and speed
of the bundled pair under lists of several sizes, counted from the target's own answers to other
items.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import torch

from benchmarks import environment
from benchmarks.pairs import measured_pair
from sage_core.drafts.vocab.reduced_lm_head import ReducedHead
from sage_core.drafts.vocab.token_list import DraftVocab
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.results import DecodeOutput
from sage_core.generation.candidates import TopK
from sage_core.pair_loading import LoadedPair
from sage_core.trees.pass_costs import Costs
from training.world.inputs import items

VOCABULARIES = (152_064, 64_000, 32_000)
PARTS = (32_000, 16_000, 8_000, 4_000)
ROWS = (1, 8)
CANDIDATES = 10
SIZES = (512, 256, 128, 64, 32)
POLICIES = ("static", "sage")
COSTS = Costs.linear(target=8e-3, node=0.15e-3, draft=1.5e-3, row=0.03e-3)
"""What `sage` is told that passes cost, so that every list gets trees of the same rule."""
LEAST = 8
"""Answers of fewer tokens count, but have no speed."""


@dataclass(frozen=True)
class Shape:
    """A published draft without its vocabulary."""

    name: str
    hidden: int
    layers: int
    inner: int
    heads: int
    kv_heads: int


SHAPES = (
    Shape("0.5B (Qwen2)", 896, 24, 4864, 14, 2),
    Shape("160M (LLaVA)", 768, 12, 3072, 12, 12),
)


@torch.inference_mode()
def head_times(shape: Shape, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds of every vocabulary and part of it, in turn, so that noise falls on all."""
    likeliest = TopK()
    whole = torch.nn.Linear(shape.hidden, max(VOCABULARIES), bias=False)
    whole.weight.normal_(0, 0.02)
    heads: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {max(VOCABULARIES): whole}
    copying: dict[int, float] = {}
    for size in sorted({*VOCABULARIES, *PARTS} - {max(VOCABULARIES)}):
        ids = torch.randperm(max(VOCABULARIES))[:size].tolist()
        started = perf_counter()
        heads[size] = ReducedHead.of(_Model(whole), ids)
        copying[size] = 1000 * (perf_counter() - started)
    found = []
    for rows in ROWS:
        hidden = torch.randn(rows, shape.hidden)
        times: dict[int, list[float]] = {size: [] for size in heads}
        for _ in range(repeats + 1):
            for size, head in heads.items():
                started = perf_counter()
                likeliest.select(head(hidden).float(), CANDIDATES)
                times[size].append(1000 * (perf_counter() - started))
        rest = body_time(shape, rows, repeats)
        for size, taken in sorted(times.items()):
            found.append(
                {
                    "shape": shape.name,
                    "hidden": shape.hidden,
                    "rows": rows,
                    "tokens": size,
                    "head_ms": median(taken[1:]),
                    "body_ms": rest,
                    "copy_ms": copying.get(size),
                }
            )
    return found


@dataclass(frozen=True, eq=False)
class _Model:
    """As much of a model as a head is taken from."""

    head: torch.nn.Module

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head


def body_time(shape: Shape, rows: int, repeats: int) -> float:
    """Milliseconds of the layers of such a draft over ``rows`` tokens, without a context."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
    )
    model = LlamaModel(config).eval()
    ids = torch.zeros((1, rows), dtype=torch.int64)
    taken = []
    for _ in range(repeats // 2 + 2):
        started = perf_counter()
        model(ids, use_cache=False)
        taken.append(1000 * (perf_counter() - started))
    return median(taken[1:])


@dataclass
class Cell:
    """What was measured for one policy and list."""

    rates: list[float] = field(default_factory=list)
    accepted: int = 0
    steps: int = 0
    nodes: int = 0
    exact: int = 0
    answers: int = 0

    def add(self, output: DecodeOutput, exact: bool) -> None:
        stats = output.stats
        if stats.new_tokens >= LEAST:
            self.rates.append(stats.tokens_per_second)
        self.accepted += stats.accepted
        self.steps += stats.steps
        self.nodes += stats.nodes_verified
        self.exact += exact
        self.answers += 1


def prepared(pair: LoadedPair, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """The inputs of ``count`` items that no training saw."""
    for item in items(count, seed):
        yield pair.family.prepare(item.media, item.prompt)


def answer(decoder: SpeculativeDecoder, inputs: dict[str, Any], limit: int) -> DecodeOutput:
    return decoder.generate(**inputs, max_new_tokens=limit)


def new_tokens(output: DecodeOutput) -> list[int]:
    ids: list[int] = output.sequences[0, -output.stats.new_tokens :].tolist()
    return ids


def on_pair(pair: LoadedPair, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every list under every policy on every item, beside the whole vocabulary."""
    limit = arguments.max_new_tokens
    plain = SpeculativeDecoder(pair.target, pair.draft, "static")
    counts: Counter[int] = Counter()
    for inputs in prepared(pair, arguments.count_items, arguments.seed + 1000):
        counts.update(new_tokens(answer(plain, inputs, limit)))
    special = [index for index in pair.family.tokenizer.all_special_ids if index in counts]
    sizes = [size for size in (len(counts), *SIZES) if size <= len(counts)]
    lists: dict[int, DraftVocab | None] = {0: None}
    for size in sizes:
        lists[size] = DraftVocab.counted_from(counts, special, size)
    decoders = {
        (policy, size): SpeculativeDecoder(
            pair.target, pair.draft, policy, costs=COSTS, backend=EagerBackend(), draft_vocab=vocab
        )
        for policy in POLICIES
        for size, vocab in lists.items()
    }
    alone = SpeculativeDecoder(pair.target, None, "autoregressive")
    cells = {key: Cell() for key in decoders}
    written: Counter[int] = Counter()
    for number, inputs in enumerate(prepared(pair, arguments.items, arguments.seed)):
        expected = new_tokens(answer(alone, inputs, limit))
        written.update(expected)
        keys = list(decoders)
        turn = number % len(keys)
        for key in (*keys[turn:], *keys[:turn]):
            output = answer(decoders[key], inputs, limit)
            if number:  # the first item warms up
                cells[key].add(output, new_tokens(output) == expected)
        print(f"\r{number + 1} items", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    vocabulary = int(pair.draft.get_output_embeddings().weight.shape[0])  # type: ignore[union-attr]
    return {
        "counted": counts.total(),
        "different": len(counts),
        "vocabulary": vocabulary,
        "results": [
            {
                "policy": policy,
                "tokens": size or vocabulary,
                "covered": _covered(lists[size], written),
                **vars(cells[policy, size]),
            }
            for policy, size in decoders
        ],
    }


def _covered(vocab: DraftVocab | None, written: Counter[int]) -> float:
    """The share of what was written that the list holds."""
    if vocab is None:
        return 1.0
    inside = {*vocab.ids, *vocab.always}
    return sum(n for token, n in written.items() if token in inside) / written.total()


def report(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Drafts that score a part of the vocabulary", ""]
    lines += environment.as_markdown(data["environment"])
    lines += [
        f"- heads: random float32 weights; median of {data['repeats']}; head: its product with the "
        f"hidden states and the {CANDIDATES} likeliest tokens with their probabilities; layers: "
        "the rest of a pass behind no context",
    ]
    for rows in ROWS:
        lines += ["", f"## Time of a head, {rows} row{'s' * (rows > 1)}", ""]
        lines += ["| draft | tokens | head, ms | layers, ms | whole pass of 152k |"]
        lines += ["|---|--:|--:|--:|--:|"]
        for shape in SHAPES:
            mine = [h for h in data["heads"] if h["shape"] == shape.name and h["rows"] == rows]
            most = max(h["head_ms"] + h["body_ms"] for h in mine)
            for h in mine:
                share = (h["head_ms"] + h["body_ms"]) / most
                lines.append(
                    f"| {shape.name}, hidden {h['hidden']} | {h['tokens']:,} "
                    f"| {h['head_ms']:.2f} | {h['body_ms']:.1f} | {share:.2f} |"
                )
    pair = data["pair"]
    lines += [
        "",
        "## The bundled pair",
        "",
        f"- lists from {pair['counted']:,} tokens of the target's answers to {data['count_items']} "
        f"other items, which hold {pair['different']} different ones; measured on "
        f"{data['items'] - 1} items; covered: share of their answers' tokens that is in the list",
        "- `sage` is told the same costs of passes with every list: 8 ms, 0.15 ms a further node, "
        "1.5 ms a draft pass",
        f"- tokens/s: median over answers of at least {LEAST} tokens, behind the first; ratio: "
        "median of the answers' own ratios to the whole vocabulary",
        "",
        "| policy | tokens | covered | τ | nodes a step | tokens/s | ratio | exact |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    base: dict[str, list[float]] = {}
    for cell in pair["results"]:
        rates = base.setdefault(cell["policy"], cell["rates"])
        ratio = median(mine / first for mine, first in zip(cell["rates"], rates, strict=True))
        steps = max(1, cell["steps"])
        lines.append(
            f"| {cell['policy']} | {cell['tokens']:,} | {cell['covered']:.2%} "
            f"| {cell['accepted'] / steps:.2f} | {cell['nodes'] / steps:.1f} "
            f"| {median(cell['rates']):.0f} | {ratio:.2f} | {cell['exact']}/{cell['answers']} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure, report; returns 1 if any answer differs from autoregressive decoding's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pair", help="folder of target/ and draft/ (default: bundled)")
    parser.add_argument("--items", type=int, default=13, help="the first warms up")
    parser.add_argument("--count-items", type=int, default=40)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    arguments = parser.parse_args(argv)
    torch.manual_seed(arguments.seed)
    measured = on_pair(measured_pair(arguments.pair), arguments)
    data = {
        "environment": environment.describe("benchmarks.draft_vocab"),
        "repeats": arguments.repeats,
        "items": arguments.items,
        "count_items": arguments.count_items,
        "heads": [time for shape in SHAPES for time in head_times(shape, arguments.repeats)],
        "pair": measured,
    }
    environment.write(arguments.output, data, report(data))
    return int(any(cell["exact"] < cell["answers"] for cell in measured["results"]))


if __name__ == "__main__":
    sys.exit(main())

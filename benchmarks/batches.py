"""What decoding several texts at once brings, over the same texts one by one.

    python -m benchmarks.batches --output benchmarks/results/batches
    python -m benchmarks.batches --widths 1,16 --told 0.25,4,100

Every policy decodes the same captions and answers one by one and in batches of several widths, in
an order that rotates. Time runs from the first prompt to the last token of all texts, prompts read
included; pictures are prepared before. On a CPU it is the processor's, so that other work on the
machine counts little; elsewhere the clock's on the wall. All texts are compared with those of
transformers' `generate`. With ``--told`` the default policy also decodes at the greatest width
while it is told that draft passes cost so many times what they do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch

from benchmarks import environment
from benchmarks.pairs import measured_pair, pair_arguments
from sage_core.engine.costs.store import CostStore
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.results import DecodeOutput
from sage_core.models.inputs import cast
from sage_core.pair_loading import LoadedPair
from sage_core.trees.pass_costs import Costs
from sage_core.trees.steps import Step
from training.world.inputs import items

DEFAULT = "sage"
POLICIES = ("autoregressive", "spec-llava", DEFAULT)
WIDTHS = "1,2,4,8,16"
ENGINE = (POLICIES[0], 1)


class Told(CostStore):
    """Costs whose draft passes are ``times`` as dear as they are measured; it learns nothing."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self._times = times

    def costs(self, key: str, context: int, measure: Callable[[], Costs]) -> Costs:
        found = super().costs(key, context, measure)
        return replace(found, draft=tuple((n, self._times * s) for n, s in found.draft))

    def learn(self, key: str, context: int, steps: Sequence[Step]) -> None:
        return


@dataclass
class Tally:
    """What one policy did at one width: seconds of each repeat, and counts over all of them."""

    seconds: list[float] = field(default_factory=list)
    """Of the processor, or on the wall where the models are elsewhere."""
    tokens: int = 0
    steps: int = 0
    accepted: float = 0.0
    nodes: int = 0
    exact: int = 0
    texts: int = 0

    def add(
        self, seconds: float, outputs: list[DecodeOutput], expected: list[torch.Tensor]
    ) -> None:
        self.seconds.append(seconds)
        self.tokens = sum(output.stats.new_tokens for output in outputs)
        for output, ids in zip(outputs, expected, strict=True):
            stats = output.stats
            self.steps += stats.steps
            self.accepted += stats.accepted
            self.nodes += stats.nodes_verified
            self.exact += torch.equal(output.sequences, ids)
            self.texts += 1


def prompts(pair: LoadedPair, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The inputs of as many texts as asked for, on the device."""
    found = []
    for item in items(arguments.items, arguments.seed):
        inputs = pair.family.prepare(item.media, item.prompt)
        found.append({k: cast(v, pair.target) for k, v in inputs.items()})
    return found


def decode(
    decoder: SpeculativeDecoder, texts: list[dict[str, Any]], width: int, limit: int
) -> tuple[float, list[DecodeOutput]]:
    """All texts at a width; the seconds it took."""
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


def measure(pair: LoadedPair, arguments: argparse.Namespace) -> dict[tuple[str, int], Tally]:
    """Every policy at every width."""
    texts, limit = prompts(pair, arguments), arguments.max_new_tokens
    expected = [
        pair.target.generate(**inputs, do_sample=False, max_new_tokens=limit) for inputs in texts
    ]
    widths = arguments.widths
    ways = [(policy, width) for policy in POLICIES for width in widths]
    decoders = {policy: SpeculativeDecoder(pair.target, pair.draft, policy) for policy in POLICIES}
    for times in arguments.told:
        name = f"{DEFAULT}, told ×{times:g}"
        ways.append((name, max(widths)))
        decoders[name] = SpeculativeDecoder(pair.target, pair.draft, DEFAULT, costs=Told(times))
    for policy, width in ways:  # first calls, and what passes cost, belong to no measurement
        decode(decoders[policy], texts[: max(4, width)], width, 32)
    tallies = {way: Tally() for way in ways}
    for repeat in range(arguments.repeats):
        turn = repeat * len(ways) // arguments.repeats
        for policy, width in ways[turn:] + ways[:turn]:
            seconds, outputs = decode(decoders[policy], texts, width, limit)
            tallies[policy, width].add(seconds, outputs, expected)
            print(f"\r{repeat + 1}: {policy} {width}   ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return tallies


def figures(tallies: dict[tuple[str, int], Tally]) -> list[dict[str, Any]]:
    """A row for each policy and width; ratios are medians over repeats of the repeat's own."""
    rows = []
    for (policy, width), tally in tallies.items():
        alone, engine = tallies[policy.partition(",")[0], ENGINE[1]], tallies[ENGINE]
        rows.append(
            {
                "policy": policy,
                "width": width,
                "tokens_per_second": median(tally.tokens / s for s in tally.seconds),
                "over_one_by_one": _ratio(alone, tally),
                "over_autoregressive_one_by_one": _ratio(engine, tally),
                "mean_accepted": tally.accepted / max(1, tally.steps),
                "nodes_per_step": tally.nodes / max(1, tally.steps),
                "exact": tally.exact,
                "texts": tally.texts,
                "seconds": tally.seconds,
            }
        )
    return rows


def _ratio(slow: Tally, fast: Tally) -> float:
    return median(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))


def report(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Several texts at once", ""]
    lines += environment.as_markdown(data["environment"])
    lines += [
        f"- pair: {data['target']} with {data['draft']}; {data['device']}, {data['dtype']}; "
        f"{data['items']} texts, limit {data['max_new_tokens']}, {data['repeats']} repeats",
        "- tokens/s: new tokens over the seconds of all texts, prompts included: the processor's "
        "on a CPU, on the wall elsewhere; τ and nodes: a step of a text",
    ]
    lines += [f"- {data['note']}"] if data["note"] else []
    lines += [
        "",
        "| policy | texts at once | tokens/s | × one by one | × autoregressive one by one | τ "
        "| nodes | exact |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in data["rows"]:
        lines.append(
            f"| {row['policy']} | {row['width']} | {row['tokens_per_second']:.1f} "
            f"| {row['over_one_by_one']:.2f} | {row['over_autoregressive_one_by_one']:.2f} "
            f"| {row['mean_accepted']:.2f} | {row['nodes_per_step']:.1f} "
            f"| {row['exact']}/{row['texts']} |"
        )
    return "\n".join(lines)


def _numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """What reads numbers between commas."""
    return lambda text: [kind(part) for part in filter(None, text.split(","))]


def main(argv: list[str] | None = None) -> int:
    """Measure, report; returns 1 if on the CPU in float32 any text differs from `generate`'s."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    pair_arguments(parser)
    parser.add_argument("--items", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--widths", type=_numbers(int), default=WIDTHS, help="1 among them")
    parser.add_argument("--told", type=_numbers(float), default="", help="factors of draft costs")
    parser.add_argument("--note", default="", help="a line for the report")
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    arguments = parser.parse_args(argv)
    pair = measured_pair(arguments.pair, arguments.device, arguments.dtype)
    rows = figures(measure(pair, arguments))
    data = {
        "environment": environment.describe("benchmarks.batches"),
        "target": pair.target_id,
        "draft": pair.draft_id,
        "device": pair.device,
        "dtype": pair.dtype,
        "items": arguments.items,
        "repeats": arguments.repeats,
        "max_new_tokens": arguments.max_new_tokens,
        "note": arguments.note,
        "rows": rows,
    }
    environment.write(arguments.output, data, report(data))
    return int(any(row["exact"] < row["texts"] for row in rows) and pair.dtype == "float32")


if __name__ == "__main__":
    sys.exit(main())

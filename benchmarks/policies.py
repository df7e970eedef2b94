"""Speed by policy on one pair in one run, with transformers' own `generate` beside it.

    python -m benchmarks.policies                              the bundled pair
    python -m benchmarks.policies --items 24 --repeats 3 --output benchmarks/results/policies
    python -m benchmarks.policies --pair DIR --policies autoregressive,sage,chain:length=3

Every item is decoded by every method, in an order that rotates from item to item so that a
drifting machine hurts all alike. Decoding is timed from the first new token to the last: reading
the prompt and the pictures is left out for all methods. Policies with several options are
separated by semicolons instead of commas.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from benchmarks import environment
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.pair_loading import LoadedPair, load_pair
from training.world.inputs import items

GENERATE = "transformers generate"
POLICIES = ("autoregressive", "chain", "static", "sage-paper", "sage")


@dataclass(frozen=True)
class Timing:
    """One decoding: ids, seconds after the first token, and what the engine counted (if it ran)."""

    tokens: tuple[int, ...]
    seconds: float
    stats: Any = None

    @property
    def rate(self) -> float:
        """Tokens a second after the first token."""
        return (len(self.tokens) - 1) / self.seconds if self.seconds > 0 else 0.0


class FirstToken(StoppingCriteria):
    """Notes when `generate` has its first new token; stops nothing."""

    def __init__(self) -> None:
        self.time: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if self.time is None:
            self.time = now(input_ids.device)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def now(device: torch.device) -> float:
    """Seconds, when all that the device was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def time_generate(pair: LoadedPair, inputs: dict[str, Any], limit: int) -> Timing:
    """Greedy decoding by transformers itself."""
    first = FirstToken()
    ids = pair.target.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=limit,
        stopping_criteria=StoppingCriteriaList([first]),
    )
    end = now(ids.device)
    new = ids[0, inputs["input_ids"].shape[1] :].tolist()
    return Timing(tuple(new), end - (first.time or end))


def time_policy(pair: LoadedPair, policy: str, inputs: dict[str, Any], limit: int) -> Timing:
    """Decoding by the engine; the clock on the wall, not the sum of its phases."""
    decoder = SpeculativeDecoder(pair.target, pair.draft, policy, runner=pair.runners)
    stream = decoder.stream(**inputs, max_new_tokens=limit)
    next(stream)
    start = now(pair.target.device)
    for _ in stream:
        pass
    end = now(pair.target.device)
    output = stream.output()
    new = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    return Timing(tuple(new), end - start, output.stats)


@dataclass
class Method:
    """What one method did on all items: each item's timings in the order they were taken."""

    name: str
    timings: list[list[Timing]] = field(default_factory=list)

    def rates(self) -> list[float]:
        """Each item's tokens a second, the median of its repeats."""
        return [median(timing.rate for timing in repeats) for repeats in self.timings]

    def summary(self, engine: Method, generate: Method) -> dict[str, Any]:
        """Figures for the report; speed-ups are medians over items of each item's own ratio."""
        rates = self.rates()
        to_engine = _ratios(rates, engine.rates())
        to_generate = _ratios(rates, generate.rates())
        exact = [
            all(timing.tokens == oracle[0].tokens for timing in repeats)
            for repeats, oracle in zip(self.timings, generate.timings, strict=True)
        ]
        counted = [repeats[0].stats for repeats in self.timings if repeats[0].stats]
        steps = sum(stats.steps for stats in counted)
        return {
            "name": self.name,
            "tokens_per_second": median(rates),
            "speedup_over_autoregressive": median(to_engine),
            "speedup_over_generate": median(to_generate),
            "worst_item_speedup_over_autoregressive": min(to_engine),
            "exact": sum(exact),
            "items": len(exact),
            "new_tokens": sum(len(repeats[0].tokens) for repeats in self.timings),
            "mean_accepted": _per(steps, (s.accepted for s in counted)),
            "nodes_per_step": _per(steps, (s.nodes_verified for s in counted)),
            "draft_passes_per_step": _per(steps, (s.draft_passes for s in counted)),
            "seconds": _phases(counted),
            "rates": rates,
        }


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def _per(steps: int, counts: Any) -> float | None:
    """A total per step; None for a method that counts no steps."""
    return sum(counts) / steps if steps else None


def _phases(counted: list[Any]) -> dict[str, float]:
    """Seconds by phase over all items, the first repeat of each."""
    names = ("draft", "plan", "verify", "accept", "commit")
    return {name: sum(getattr(stats.seconds, name) for stats in counted) for name in names}


def measure(
    pair: LoadedPair, policies: Sequence[str], arguments: argparse.Namespace
) -> list[Method]:
    """Time every method on every item, items with fewer than ``least`` new tokens left out."""
    methods = [Method(GENERATE), *(Method(policy) for policy in policies)]
    taken = 0
    for item in items(1000, arguments.seed):
        if taken == arguments.items:
            break
        inputs = {
            name: value.to(pair.target.device) if isinstance(value, torch.Tensor) else value
            for name, value in pair.family.prepare(item.media, item.prompt).items()
        }
        inputs = {k: v.to(pair.target.dtype) if _floats(v) else v for k, v in inputs.items()}
        limit = arguments.max_new_tokens
        if len(time_generate(pair, inputs, limit).tokens) < arguments.least:
            continue
        if not taken:  # warm-up: allocations and first calls belong to no method
            for method in methods:
                _timed(pair, method, inputs, min(limit, 32))
        found: dict[str, list[Timing]] = {method.name: [] for method in methods}
        for repeat in range(arguments.repeats):
            turn = (taken + repeat) % len(methods)
            for method in methods[turn:] + methods[:turn]:
                found[method.name].append(_timed(pair, method, inputs, limit))
        for method in methods:
            method.timings.append(found[method.name])
        taken += 1
        print(f"\r{taken} of {arguments.items} items", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return methods


def _floats(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _timed(pair: LoadedPair, method: Method, inputs: dict[str, Any], limit: int) -> Timing:
    if method.name == GENERATE:
        return time_generate(pair, inputs, limit)
    return time_policy(pair, method.name, inputs, limit)


def report(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Speed by policy", ""]
    lines += environment.as_markdown(data["environment"])
    lines += [
        f"- pair: {data['target']} with {data['draft']}; {data['device']}, {data['dtype']}",
        f"- {data['items']} items, {data['repeats']} repeats, {data['new_tokens']} new tokens "
        f"by `generate` (limit {data['max_new_tokens']})",
        "- tokens/s: median over items, from the first new token to the last; speed-ups: median "
        "over items of the item's own ratio; τ, nodes and passes: totals per step",
        "",
        "| method | tokens/s | × autoregressive | worst item | × generate | τ | nodes/step "
        "| draft passes/step | exact |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for method in data["methods"]:
        counted = [
            "–" if method[name] is None else f"{method[name]:.2f}"
            for name in ("mean_accepted", "nodes_per_step", "draft_passes_per_step")
        ]
        lines.append(
            f"| {method['name']} | {method['tokens_per_second']:.1f} "
            f"| {method['speedup_over_autoregressive']:.2f} "
            f"| {method['worst_item_speedup_over_autoregressive']:.2f} "
            f"| {method['speedup_over_generate']:.2f} | {' | '.join(counted)} "
            f"| {method['exact']}/{method['items']} |"
        )
    lines += [
        "",
        "Share of decoding time:",
        "",
        "| method | draft | plan | verify | accept | commit |",
    ]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for method in data["methods"]:
        total = sum(method["seconds"].values())
        if total:
            shares = " | ".join(f"{100 * s / total:.1f}%" for s in method["seconds"].values())
            lines.append(f"| {method['name']} | {shares} |")
    return "\n".join(lines)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pair", help="folder of target/ and draft/ (default: bundled)")
    parser.add_argument("--draft", help="another draft than the pair's own")
    parser.add_argument("--policies", help="specs between commas, or semicolons")
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--least", type=int, default=16, help="leave out shorter texts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, report; returns 1 if on the CPU in float32 any output differs from `generate`'s."""
    arguments = parse_arguments(argv)
    arguments.least = max(2, arguments.least)  # a rate needs a second token
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    policies = list(POLICIES)
    if arguments.policies:
        separator = ";" if ";" in arguments.policies else ","
        policies = [spec.strip() for spec in arguments.policies.split(separator)]
    if "autoregressive" not in policies:
        policies.insert(0, "autoregressive")
    folder = Path(arguments.pair) if arguments.pair else None
    pair = load_pair(
        folder / "target" if folder else None,
        arguments.draft or (folder / "draft" if folder else "auto"),
        arguments.device,
        arguments.dtype,
    )
    methods = measure(pair, policies, arguments)
    engine = next(method for method in methods if method.name == "autoregressive")
    summaries = [method.summary(engine, methods[0]) for method in methods]
    data = {
        "environment": environment.describe("benchmarks.policies"),
        "target": pair.target_id,
        "draft": pair.draft_id,
        "device": pair.device,
        "dtype": pair.dtype,
        "items": len(engine.timings),
        "repeats": arguments.repeats,
        "max_new_tokens": arguments.max_new_tokens,
        "new_tokens": summaries[0]["new_tokens"],
        "methods": summaries,
    }
    environment.write(arguments.output, data, report(data))
    return int(any(s["exact"] < s["items"] for s in summaries) and pair.dtype == "float32")


if __name__ == "__main__":
    sys.exit(main())

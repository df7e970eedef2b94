"""What pruning the draft's visual tokens does: accepted length, cache, time, by ratio and method.

    python -m benchmarks.pruning --output benchmarks/results/pruning
    python -m benchmarks.pruning --frames 8,32 --ratios 0,0.5,0.9 --methods verifier,uniform
    python -m benchmarks.pruning --pair OUT --clips parade --frames 16,32,48
    python -m benchmarks.pruning --cost 25000 --output benchmarks/results/pruning-cost

The first decodes held-out clips by every method at every ratio, item by item in rotated order;
`--clips parade` those in which one thing after another is seen, for the pair that
`training.long_clips` trains. The last reads one long prompt with a random model, with scores
gathered and without, and tells what gathering adds in time and memory. A plot is written where
matplotlib is installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from benchmarks import environment
from sage_core.drafts.pruning.draft_prompt import DraftPrompt
from sage_core.drafts.pruning.options import METHODS, Pruning
from sage_core.drafts.pruning.scores import AlignmentScores, AttentionScores
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.generation.prepare import prepare
from sage_core.media import Clip
from sage_core.models.catalog import BUNDLED_DRAFT
from sage_core.models.visual_tokens import visual_mask
from sage_core.pair_loading import LoadedPair, load_pair
from sage_core.runtime.runner import Runner

RATIOS = (0.0, 0.3, 0.6, 0.7, 0.8, 0.9, 0.95)
FRAMES = (8, 16, 32)


@dataclass
class Cell:
    """What was measured for one number of frames, method and ratio."""

    visual: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    accepted: int = 0
    steps: int = 0
    exact: int = 0
    edges: list[float] = field(default_factory=list)
    """Share of the kept tokens that lie in the first or the last frame."""

    def as_dict(self) -> dict[str, float]:
        return {
            "items": len(self.rates),
            "exact": self.exact,
            "visual_tokens": median(self.visual),
            "draft_visual_tokens": median(self.kept),
            "mean_accepted": self.accepted / max(1, self.steps),
            "draft_prefill_ms": 1000 * median(self.prefill),
            "tokens_per_second": median(self.rates),
            "edge_share": sum(self.edges) / max(1, len(self.edges)),
        }


def clips(count: int, frames: int, seed: int, kind: str = "events") -> Iterator[Clip]:
    """Held-out clips of the pair's own world, drawn at ``frames`` frames."""
    import numpy as np

    from training.world.parade import parade
    from training.world.render import draw
    from training.world.scenes import random_clip

    for index in range(count):
        rng = np.random.default_rng([90_001, seed, 77, index])
        drawn = draw(parade(rng, frames) if kind == "parade" else random_clip(rng), frames)
        shown = np.stack([np.asarray(image.convert("RGB")) for image in drawn])
        yield Clip(shown, np.arange(frames) / 4.0, 4.0, frames / 4.0, f"clip-{seed}-{index}")


def compare(
    pair: LoadedPair,
    arguments: argparse.Namespace,
) -> dict[str, dict[str, float]]:
    """Cells by ``frames/method/ratio``; the ratio 0 is the same for all methods."""
    combinations = [
        (method, ratio)
        for method in arguments.methods
        for ratio in arguments.ratios
        if ratio or method == arguments.methods[0]
    ]
    found: dict[str, Cell] = {}
    for frames in arguments.frames:
        drawn = clips(arguments.items, frames, arguments.seed, arguments.clips)
        for number, clip in enumerate(drawn):
            inputs = pair.family.prepare([clip], "Describe this video in detail.")
            turn = number % len(combinations)
            expected: list[int] | None = None
            for method, ratio in combinations[turn:] + combinations[:turn]:
                decoder = SpeculativeDecoder(
                    pair.target, pair.draft, arguments.policy, Pruning(ratio, method)
                )
                output = decoder.generate(**inputs, max_new_tokens=arguments.max_new_tokens)
                stats, ids = output.stats, output.sequences[0].tolist()
                expected = expected or ids
                cell = found.setdefault(f"{frames}/{method}/{ratio}", Cell())
                cell.visual.append(stats.visual_tokens)
                cell.kept.append(stats.draft_visual_tokens)
                cell.prefill.append(stats.seconds.prefill_draft)
                cell.rates.append(stats.tokens_per_second)
                cell.accepted += stats.accepted
                cell.steps += stats.steps
                cell.exact += ids == expected
                cell.edges.append(edge_share(pair, inputs, Pruning(ratio, method), frames))
            print(f"\r{frames} frames: {number + 1} clips", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {name: cell.as_dict() for name, cell in found.items()}


def edge_share(pair: LoadedPair, inputs: dict[str, Any], pruning: Pruning, frames: int) -> float:
    """Share of the kept visual tokens in the first and the last of ``frames`` frames."""
    prepared = prepare(pair.target, {**inputs, "max_new_tokens": 1})
    sight = DraftPrompt(pruning, pair.target.config, prepared)
    runner = Runner(pair.target)
    with sight.watching(runner.decoder):
        runner.prefill(prepared, 1)
    visual = visual_mask(pair.target.config, prepared.input_ids[0]).nonzero()[:, 0].tolist()
    frame = len(visual) // frames
    edges = {*visual[:frame], *visual[-frame - 1 :]}  # the newline behind the last frame too
    positions = sight.positions()
    kept = visual if positions is None else sorted(set(visual) & set(positions.tolist()))
    return len(edges & set(kept)) / max(1, len(kept))


def cost(visual: int, repeats: int) -> dict[str, Any]:
    """Seconds of a random decoder's prefill over ``visual`` tokens and 64 of text, and what
    gathering adds to its time and memory. Grouped-query attention, as in the Qwen families."""
    from transformers import Qwen2Config, Qwen2Model

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=256,
        hidden_size=448,
        intermediate_size=1792,
        num_hidden_layers=3,
        num_attention_heads=7,
        num_key_value_heads=1,
        max_position_embeddings=65536,
        attn_implementation="sdpa",
    )
    model = Qwen2Model(config).eval()
    length = visual + 64
    hidden = torch.randn(1, length, config.hidden_size)
    shown = torch.arange(0, visual)
    kinds: dict[str, Any] = {
        "none": None,
        "verifier": AttentionScores,
        "alignment": AlignmentScores,
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    order = list(kinds)
    for turn in range(repeats):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            gathered = kinds[name](shown, length) if kinds[name] else None
            started = perf_counter()
            with torch.inference_mode():
                if gathered is None:
                    model(inputs_embeds=hidden, use_cache=False)
                else:
                    with gathered.watching(model):
                        model(inputs_embeds=hidden, use_cache=False)
            seconds[name].append(perf_counter() - started)
    base = median(seconds["none"])
    return {
        "visual_tokens": visual,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "seconds": {name: median(times) for name, times in seconds.items()},
        "extra": {name: median(times) / base - 1 for name, times in seconds.items()},
        "verifier_extra_bytes": _gathering_bytes(config, shown, length),
    }


def _gathering_bytes(config: Any, shown: torch.Tensor, length: int) -> int:
    """Peak bytes that one layer's scores need beyond the queries and keys themselves."""
    size = config.hidden_size // config.num_attention_heads
    query = torch.randn(1, config.num_attention_heads, length, size)
    key = torch.randn(1, config.num_key_value_heads, length, size)
    gathered = AttentionScores(shown, length)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        gathered.add(query, key, None)
    held = most = 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def report(data: dict[str, Any]) -> str:
    lines = ["# What pruning the draft's visual tokens does", ""]
    lines += [*environment.as_markdown(data["environment"]), ""]
    if "cost" in data:
        found = data["cost"]
        lines += [
            f"One prompt of {found['visual_tokens']} visual tokens and 64 of text, a random "
            f"decoder of {found['layers']} layers and {found['heads']} heads; medians.",
            "",
            "| scores | prefill, s | extra time |",
            "|---|--|--|",
        ]
        for name, seconds in found["seconds"].items():
            lines.append(f"| {name} | {seconds:.2f} | {found['extra'][name]:+.1%} |")
        megabytes = found["verifier_extra_bytes"] / 1e6
        lines += ["", f"Memory that `verifier` needs at its peak: {megabytes:.0f} MB."]
        return "\n".join(lines)
    lines += [
        f"Policy `{data['policy']}`, {data['items']} clips each, {data['new']} new tokens.",
        "",
    ]
    lines += [
        "| frames | method | ratio | visual tokens | seen by the draft | τ | draft prefill, ms "
        "| tokens/s | in the outer frames | exact |",
        "|--|---|--|--|--|--|--|--|--|--|",
    ]
    for name, cell in data["cells"].items():
        frames, method, ratio = name.split("/")
        method = "all tokens" if float(ratio) == 0 else method
        lines.append(
            f"| {frames} | {method} | {ratio} | {cell['visual_tokens']:.0f} "
            f"| {cell['draft_visual_tokens']:.0f} | {cell['mean_accepted']:.2f} "
            f"| {cell['draft_prefill_ms']:.1f} | {cell['tokens_per_second']:.1f} "
            f"| {cell['edge_share']:.0%} | {cell['exact']}/{cell['items']} |"
        )
    return "\n".join(lines)


def plot(data: dict[str, Any], path: Path) -> None:
    """τ and tokens/s against the ratio, a line for each method, a row for each frame count."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("no plot: pip install matplotlib", file=sys.stderr)
        return
    frames = sorted({int(name.split("/")[0]) for name in data["cells"]})
    figure, axes = pyplot.subplots(len(frames), 2, figsize=(9, 3 * len(frames)), squeeze=False)
    for row, count in enumerate(frames):
        cells = {
            tuple(name.split("/")[1:]): cell
            for name, cell in data["cells"].items()
            if int(name.split("/")[0]) == count
        }
        zero = next((cell for (_, ratio), cell in cells.items() if float(ratio) == 0), None)
        for method in dict.fromkeys(method for method, _ in cells):
            points = [(0.0, zero)] if zero else []
            points += [(float(r), c) for (m, r), c in cells.items() if m == method and float(r)]
            for column, value in enumerate(("mean_accepted", "tokens_per_second")):
                axes[row][column].plot(
                    [ratio for ratio, _ in points],
                    [cell[value] for _, cell in points],
                    marker="o",
                    label=method,
                )
        for column, title in enumerate(("accepted length τ", "tokens/s")):
            axes[row][column].set_title(f"{count} frames: {title}")
            axes[row][column].set_xlabel("share of visual tokens left out")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    def numbers(kind: type) -> Any:
        return lambda text: [kind(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", help="a folder with target/ and draft/; default: the bundled")
    parser.add_argument("--items", type=int, default=8, help="clips for each number of frames")
    parser.add_argument(
        "--clips", choices=["events", "parade"], default="events", help="what is seen in them"
    )
    parser.add_argument("--frames", type=numbers(int), default=list(FRAMES))
    parser.add_argument("--ratios", type=numbers(float), default=list(RATIOS))
    methods = [method for method in METHODS if method != "none"]
    parser.add_argument("--methods", type=numbers(str), default=methods)
    parser.add_argument("--policy", default="sage")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--cost", type=int, metavar="TOKENS", help="time gathering on such a prompt"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of --cost")
    parser.add_argument("--output", help="write FILE.json, FILE.md and FILE.png")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    data: dict[str, Any] = {"environment": environment.describe("benchmarks.pruning")}
    if arguments.cost:
        data["cost"] = cost(arguments.cost, arguments.repeats)
        environment.write(arguments.output, data, report(data))
        return 0
    folder = Path(arguments.pair) if arguments.pair else None
    pair = load_pair(
        folder / "target" if folder else None,
        folder / "draft" if folder else BUNDLED_DRAFT,
        arguments.device,
    )
    data |= {
        "policy": arguments.policy,
        "items": arguments.items,
        "new": arguments.max_new_tokens,
        "cells": compare(pair, arguments),
    }
    environment.write(arguments.output, data, report(data))
    if arguments.output:
        plot(data, Path(arguments.output).with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

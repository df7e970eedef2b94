"""What pruning the draft's visual tokens does: accepted length, cache, time, by ratio and method.

    python -m benchmarks.pruning --output benchmarks/results/pruning
    python -m benchmarks.pruning --frames 8,32 --ratios 0,0.5,0.9 --methods verifier,uniform
    python -m benchmarks.pruning --pair OUT --videos parade --frames 16,32,48
    python -m benchmarks.pruning --cost 25000 --output benchmarks/results/pruning-cost

The first decodes held-out videos by every method at every ratio in rotated order; `--videos parade`
those in which one thing after another is seen, for the pair that `training.long_clips` trains. The
last prefills one long prompt with a random model, with scores gathered and without. A plot is
written where matplotlib is installed.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks import environment, harness, plots
from benchmarks.harness import Decoded, Tally, number
from sage_core.drafts.pruning.options import METHODS, Pruning
from sage_core.drafts.pruning.scores import AlignmentScores, AttentionScores
from sage_core.media import Clip
from sage_core.pair_loading import LoadedPair
from training.world.parade import parade
from training.world.render import draw
from training.world.scenes import random_clip

PROMPT = "Describe this video in detail."
TITLE = "What pruning the draft's visual tokens does"
PLOTTED = {"accepted length τ": "mean_accepted", "tokens/s": "tokens_per_second"}


def clips(count: int, frames: int, seed: int, kind: str = "events") -> Iterator[Clip]:
    """Held-out videos of the pair's own world, rendered at ``frames`` frames."""
    for index in range(count):
        rng = np.random.default_rng([90_001, seed, 77, index])
        drawn = draw(parade(rng, frames) if kind == "parade" else random_clip(rng), frames)
        shown = np.stack([np.asarray(image.convert("RGB")) for image in drawn])
        yield Clip(shown, np.arange(frames) / 4.0, 4.0, frames / 4.0, f"clip-{seed}-{index}")


def compare(pair: LoadedPair, arguments: Namespace, frames: int) -> list[dict[str, Any]]:
    """The figures of each method and ratio; the ratio 0 is the same for all methods."""
    prunings = [
        Pruning(ratio, method)
        for method in arguments.methods
        for ratio in arguments.ratios
        if ratio or method == arguments.methods[0]
    ]

    def decode(decoder: Any, inputs: dict[str, Any]) -> Decoded:
        return Decoded.of(decoder.generate(**inputs, max_new_tokens=arguments.max_new_tokens))

    methods = {
        f"{p.method} {p.ratio}": partial(decode, harness.decoder(pair, arguments.policy, pruning=p))
        for p in prunings
    }
    videos = clips(arguments.items, frames, arguments.seed, arguments.videos)
    texts = (pair.family.prepare([clip], PROMPT) for clip in videos)
    tallies = [Tally() for _ in prunings]
    seen: list[list[Any]] = [[] for _ in prunings]
    for _, found in harness.interleaved(texts, methods):
        expected = next(iter(found.values()))[0].tokens
        for tally, own, (text,) in zip(tallies, seen, found.values(), strict=True):
            tally.add([text], expected)
            own.append(text.stats)
    rows = []
    for pruning, tally, own in zip(prunings, tallies, seen, strict=True):
        row = {"frames": frames, "method": pruning.method, "ratio": pruning.ratio}
        for name in ("visual_tokens", "draft_visual_tokens"):
            row[name] = median(getattr(stats, name) for stats in own)
        row["draft_prefill_ms"] = 1000 * median(stats.seconds.prefill_draft for stats in own)
        rows.append(row | tally.figures(tallies[0]))
    return rows


def cost(visual: int, repeats: int) -> dict[str, Any]:
    """Seconds of a random decoder's prefill over ``visual`` tokens and 64 of text, and the time
    that gathering scores adds. Grouped-query attention, as in Qwen."""
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
    positions = torch.arange(visual)

    def prefill(scores: Callable[..., Any] | None, _: None) -> float:
        gathering = scores(positions, length).observing(model) if scores else nullcontext()
        started = perf_counter()
        with torch.inference_mode(), gathering:
            model(inputs_embeds=hidden, use_cache=False)
        return perf_counter() - started

    kinds = {"none": None, "verifier": AttentionScores, "alignment": AlignmentScores}
    methods = {name: partial(prefill, scores) for name, scores in kinds.items()}
    ((_, found),) = harness.interleaved([None], methods, repeats)
    seconds = {name: median(times) for name, times in found.items()}
    return {
        "visual_tokens": visual,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "seconds": seconds,
        "extra": {name: time / seconds["none"] - 1 for name, time in seconds.items()},
    }


def report(data: dict[str, Any]) -> str:
    if data["cost"]:
        found = data["cost"]
        note = (
            f"one prompt of {found['visual_tokens']} visual tokens and 64 of text, a random "
            f"decoder of {found['layers']} layers and {found['heads']} heads; medians"
        )
        rows = [[k, number(s), f"{found['extra'][k]:+.1%}"] for k, s in found["seconds"].items()]
        table = harness.table(["scores", "prefill, s", "extra time"], rows)
        return harness.report(TITLE, data, [note], table)
    columns = [
        ("visual tokens", lambda row: number(row["visual_tokens"], 0)),
        ("seen by the draft", lambda row: number(row["draft_visual_tokens"], 0)),
        harness.ACCEPTED,
        ("draft prefill, ms", lambda row: number(row["draft_prefill_ms"], 1)),
        harness.SPEED,
        harness.EXACT,
    ]
    rows = {
        f"{row['frames']} frames, {row['method'] if row['ratio'] else 'all'} {row['ratio']}": row
        for row in data["rows"]
    }
    notes = [f"policy `{data['policy']}`, {data['items']} videos each; {harness.TAU}"]
    return harness.report(TITLE, data, notes, harness.methods_table(rows, columns))


def draw_plot(data: dict[str, Any]) -> Any:
    """τ and tokens/s by ratio, a line a method, two charts for each number of frames."""
    charts = []
    for frames in dict.fromkeys(row["frames"] for row in data["rows"]):
        rows = [row for row in data["rows"] if row["frames"] == frames]
        for title, value in PLOTTED.items():
            lines: dict[str, plots.Line] = {}
            for method in data["methods"]:
                own = [row for row in rows if row["method"] == method or not row["ratio"]]
                own.sort(key=lambda row: row["ratio"])
                lines[method] = [r["ratio"] for r in own], [r[value] for r in own], None
            charts.append((f"{frames} frames: {title}", "visual tokens left out", lines))
    return plots.panels(charts, columns=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, report; returns 1 if any text depends on pruning."""
    parser = harness.options(
        __doc__,
        items=8,
        frames=(8, 16, 32),
        ratios=(0.0, 0.3, 0.6, 0.7, 0.8, 0.9, 0.95),
        methods=tuple(method for method in METHODS if method != "none"),
        policy="sage",
        max_new_tokens=96,
        seed=0,
        repeats=3,
        files="FILE.json, FILE.md and FILE.png",
    )
    parser.add_argument("--videos", choices=["events", "parade"], default="events")
    parser.add_argument("--cost", type=int, metavar="TOKENS", help="time gathering instead")
    arguments = parser.parse_args(argv)
    if arguments.cost:
        data = {"environment": environment.describe("benchmarks.pruning")}
        data["cost"] = cost(arguments.cost, arguments.repeats)
        environment.write(arguments.output, data, report(data))
        return 0
    pair = harness.load(arguments)
    data = harness.described("benchmarks.pruning", arguments, pair)
    data["rows"] = [row for n in arguments.frames for row in compare(pair, arguments, n)]
    environment.write(arguments.output, data, report(data))
    if arguments.output:
        plots.save(draw_plot, data, Path(arguments.output))
    return int(not harness.all_exact(data["rows"]))


if __name__ == "__main__":
    sys.exit(main())

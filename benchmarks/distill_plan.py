"""What distilling takes at published shapes: `python -m benchmarks.distill_plan --output FILE`.

Plans follow from configurations (`sage_core.distill.plan`). Beside them stand counts of the very
code that trains, at the same shapes without memory (`benchmarks.distill_counts`), and seconds of
real steps on the bundled target, whose arithmetic is timed in the same run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from time import process_time
from typing import Any

import torch
import transformers as tf

from benchmarks.distill_counts import count_hollow
from benchmarks.environment import as_markdown, describe, write
from benchmarks.expansion import LLAVA_7B, QWEN_7B, QWEN_32B
from benchmarks.expansion import Shape as Decoder
from benchmarks.pairs import measured_pair
from sage_core.distill.options import DistillOptions
from sage_core.distill.plan import Machine, Plan, Shape, Target, draft_cost, make_plan

GIB = 2**30
KINDS: dict[str, dict[str, Any]] = {
    "head": {},
    "head, recompute": {"recompute": True},
    "specvlm": {"kind": "specvlm"},
    "vispec": {"kind": "vispec"},
    "model": {"kind": "model"},
    "model, recompute": {"kind": "model", "recompute": True},
}


def llava(size: int, inner: int, layers: int, heads: int) -> Any:
    """LLaVA-1.5 with CLIP's large tower at 336 pixels."""
    vision = tf.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = tf.LlamaConfig(
        vocab_size=32064,
        hidden_size=size,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
    )
    return tf.LlavaConfig(vision_config=vision, text_config=text, dtype="float16")


def onevision(decoder: Decoder) -> Any:
    """LLaVA-OneVision with SigLIP's tower of 384 pixels."""
    vision = tf.SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=26,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )
    text = tf.Qwen2Config(**_text(decoder))
    return tf.LlavaOnevisionConfig(
        vision_config=vision, text_config=text, tie_word_embeddings=False, dtype="bfloat16"
    )


def qwen(decoder: Decoder, vision_inner: int) -> Any:
    """Qwen2.5-VL."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": vision_inner,
        "num_heads": 16,
        "out_hidden_size": decoder.hidden,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    return tf.Qwen2_5_VLConfig(
        text_config={**_text(decoder), "rope_parameters": rope},
        vision_config=vision,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )


def _text(decoder: Decoder) -> dict[str, Any]:
    return {
        "vocab_size": decoder.vocab,
        "hidden_size": decoder.hidden,
        "intermediate_size": decoder.mlp,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "tie_word_embeddings": False,
    }


TARGETS: dict[str, tuple[Any, Shape]] = {
    "LLaVA-1.5-7B": (llava(4096, 11008, 32, 32), Shape(prompt=640, visual=576, patches=577)),
    "LLaVA-1.5-13B": (llava(5120, 13824, 40, 40), Shape(prompt=640, visual=576, patches=577)),
    "LLaVA-OneVision-7B": (onevision(LLAVA_7B), Shape(prompt=3000, visual=2916, patches=2916)),
    "Qwen2.5-VL-7B": (qwen(QWEN_7B, 3420), Shape(prompt=1400, visual=1296, patches=5184)),
    "Qwen2.5-VL-32B": (qwen(QWEN_32B, 3456), Shape(prompt=1400, visual=1296, patches=5184)),
}
"""Configurations, and a picture with a short question: 336x336 pixels; 768x768 in four tiles;
1008x1008."""


def plans(machine: Machine) -> Iterator[tuple[str, str, Target, Shape, DistillOptions, Plan]]:
    """Every kind for every target, batch 8."""
    for name, (config, shape) in TARGETS.items():
        target = Target.of(name, config, str(config.dtype).removeprefix("torch."))
        for kind, more in KINDS.items():
            options = DistillOptions(steps=1, **more)
            yield name, kind, target, shape, options, make_plan(target, shape, options, machine)


def counted(target: Target, shape: Shape, options: DistillOptions) -> dict[str, float]:
    """Formula over count, at full size: arithmetic, bytes kept and bytes at the peak.

    Of the decoder with the picture's tokens, without the tower: its own passes depend on values.
    """
    config = _alone(target.text)
    text = Target.of(target.name, config, target.dtype)
    alone = draft_cost(text, replace(shape, patches=0), options)
    counts = count_hollow(config, shape, options, mixed=True)
    return {
        "flops": (alone.forward + alone.backward) / (counts.forward + counts.backward),
        "kept": alone.kept / counts.kept,
        "peak": alone.peak / counts.peak,
    }


def _alone(text: Any) -> Any:
    """The configuration of a text-only model with that decoder's sizes."""
    if text.model_type != "qwen2_5_vl_text":
        return text
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "num_key_value_heads", "tie_word_embeddings")
    return tf.Qwen2Config(**{name: getattr(text, name) for name in names})


def measured(
    kinds: tuple[str, ...] = ("head", "specvlm", "vispec", "model"),
) -> list[dict[str, Any]]:
    """Seconds of lessons on the bundled target beside the plan's, one thread, in CPU time."""
    from benchmarks.distill import draw_pictures
    from sage_core.distill.data import read_samples
    from sage_core.distill.run import new_student
    from sage_core.distill.teacher import Teacher
    from sage_core.models.checkpoint import load_config
    from sage_core.models.visual_tokens import visual_mask

    torch.set_num_threads(1)
    pair = measured_pair(dtype="float32")
    assert pair.folder is not None
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        draw_pictures(Path(folder), 3, 1)
        samples = read_samples(folder, print)
        teacher = Teacher(pair, samples, DistillOptions(steps=1))
        inputs = teacher.prompt(0)
        answer = teacher.answer(0, inputs)
        prompt = int(inputs["input_ids"].shape[1])
        visual = int(visual_mask(pair.target.config, inputs["input_ids"])[0].sum())
        shape = Shape(prompt, visual, visual, len(answer))
        target = Target.of("sage-tiny", load_config(pair.folder), "float32")
        for kind in ("head", "specvlm", "vispec", "model"):
            options = DistillOptions(steps=1, kind=kind)
            student = new_student(teacher, options)
            speed = _matmul_speed(int(target.text.hidden_size), shape.tokens)
            machine = Machine(flops=speed, use=1.0, bandwidth=1e10, gpu=False)
            seconds = make_plan(target, shape, options, machine).seconds

            def learn() -> None:
                student.compute_loss(example).loss.backward()  # noqa: B023

            example = teacher._example(0)
            found = {"read": _fastest(lambda: teacher._example(0)), "learn": _fastest(learn)}
            rows.append(
                {
                    "kind": kind,
                    "tokens": shape.tokens,
                    "matmul_gflops": speed / 1e9,
                    **{f"{part}_planned": seconds[part] for part in found},
                    **{f"{part}_measured": found[part] for part in found},
                }
            )
    return rows


def _matmul_speed(size: int, rows: int) -> float:
    """Operations a second of a product as a layer has them, in CPU time of one thread."""
    left, right = torch.randn(rows, size), torch.randn(size, 2 * size)
    return 4.0 * rows * size * size / _fastest(lambda: left @ right, 200)


def _fastest(work: Any, times: int = 12) -> float:
    """CPU seconds of the fastest of some runs: another process's load is in none of it."""
    best = float("inf")
    for _ in range(times):
        started = process_time()
        work()
        best = min(best, process_time() - started)
    return best


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each plan."""
    lines = [
        "| target | draft | trained, M | target, GiB | draft, gradients, moments, GiB "
        "| passes, GiB | in all, GiB | read, TFLOP | learn, TFLOP | write an answer, s "
        "| step of 8, s | counted: arithmetic, kept, peak |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        memory, flops, seconds = row["memory"], row["flops"], row["seconds"]
        learned = memory["draft"] + memory["gradients"] + memory["moments"]
        ratios = " ".join(f"{value:.3f}" for value in row["counted"].values())
        lines.append(
            f"| {row['target']} | {row['kind']} | {row['cost']['parameters'] / 1e6:,.0f} "
            f"| {memory['target'] / GIB:.1f} | {learned / GIB:.1f} "
            f"| {max(row['passes'].values()) / GIB:.1f} | {row['peak'] / GIB:.1f} "
            f"| {flops['read'] / 1e12:.1f} | {flops['learn'] / 1e12:.1f} "
            f"| {seconds['write']:.1f} | {seconds['step']:.1f} | {ratios} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    parser.add_argument("--counts", help="take counts and times from an earlier FILE.json")
    arguments = parser.parse_args()
    earlier = json.loads(Path(arguments.counts).read_text()) if arguments.counts else None
    known = (
        {(row["target"], row["kind"]): row["counted"] for row in earlier["plans"]}
        if earlier
        else {}
    )
    environment = describe("benchmarks.distill_plan")
    machine, rows = Machine(), []
    for name, kind, target, shape, options, plan in plans(machine):
        found = known[name, kind] if earlier else counted(target, shape, options)
        row = {"target": name, "kind": kind, "shape": asdict(shape), "counted": found}
        rows.append(row | plan.as_json() | {"target_parameters": plan.target_parameters})
        print(name, kind, found, flush=True)
    steps = earlier["steps"] if earlier else measured()
    lines = [
        "# What distilling takes at published shapes",
        "",
        *as_markdown(environment),
        "",
        f"Planned for {machine.flops / 1e12:.0f} TFLOP/s of which {machine.use:.0%} are reached "
        f"and {machine.bandwidth / 1e12:.1f} TB/s: an H200 in bfloat16. Nothing here ran on a GPU. "
        "Batch 8, answers of 256 tokens. *Counted* is formula over count, of the code that trains "
        "at this very size on tensors without memory: operations, bytes kept for gradients, bytes "
        "at the peak (decoder only).",
        "",
        *(
            f"- {name}: {shape.visual:,} visual tokens of {shape.prompt:,}"
            for name, (_, shape) in TARGETS.items()
        ),
        "",
        *table(rows),
        "",
        "## Seconds of real lessons: the bundled target, one thread, CPU time",
        "",
        "Planned with the speed of one product in the same run, all of it reached.",
        "",
        "| draft | tokens | GFLOP/s | read: planned, measured | learn: planned, measured |",
        "|---|---:|---:|---:|---:|",
    ]
    for step in steps:
        parts = [
            f"{1e3 * step[f'{part}_planned']:.0f}, {1e3 * step[f'{part}_measured']:.0f} ms"
            for part in ("read", "learn")
        ]
        lines.append(
            f"| {step['kind']} | {step['tokens']} | {step['matmul_gflops']:.0f} "
            f"| {' | '.join(parts)} |"
        )
    data = {"environment": environment, "machine": asdict(machine), "plans": rows, "steps": steps}
    write(arguments.output, data, "\n".join(lines))


if __name__ == "__main__":
    main()

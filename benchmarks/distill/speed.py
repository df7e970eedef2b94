"""Decoding with the trained drafts: held-out scenes under several trees, and long prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.distill.data import LONGEST, SEEDS, SceneTeacher, read_scenes
from benchmarks.distill.train import KINDS, MAIN, VARIANTS, folder_of
from benchmarks.harness import Decoded, Tally, decoder, interleaved
from benchmarks.pairs import measured_pair
from benchmarks.pruning import clips
from sage_core.drafts.head.checkpoint import load_head
from sage_core.drafts.head.config import is_head
from sage_core.media import Picture
from sage_core.models.checkpoint import load_model
from sage_core.models.inputs import cast
from sage_core.pair_loading import LoadedPair, load_pair
from sage_core.runtime.cpu.executor import CpuBackend
from training.world.inputs import items

SPEEDS, LONG = "speed.json", "long.json"
BUNDLED, NO_DRAFT = "the bundled draft", "no draft"
POLICIES = ("sage", "eagle2", "static")
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 3},
}
FIGURES = ("texts", "exact", "tokens_per_second", "ratio", "mean_accepted", "level_ms")
HEADS = [name for name in MAIN if name not in ("head, loss acceptance", "model")] + ["prune 20x"]
FRAMES, PICTURES, LONG_TOKENS = (8, 64, 256), (2, 8, 32), 48


def _trained(pair: LoadedPair, out: Path, names: Any) -> dict[str, LoadedPair]:
    """The pair with each of the trained drafts in place of its own."""
    found = {}
    for name in names:
        if (folder := folder_of(out, name)).is_dir():
            head = is_head(folder)
            draft = load_head(folder, pair.target) if head else load_model(str(folder))
            found[name] = replace(pair, draft=draft)
    return found


def _decode(decoder: Any, limit: int, setting: str, inputs: dict[str, Any]) -> Decoded:
    return Decoded.of(decoder.generate(**inputs, max_new_tokens=limit, **SETTINGS[setting]))


def scenes(out: Path, count: int) -> None:
    """Decode the ``count`` held-out scenes with the longest answers by every draft; write `SPEEDS`.

    `train.VARIANTS` under ``sage`` and greedily, all others under every policy and setting.
    """
    pair = measured_pair(device="auto")
    held, answers = read_scenes(out, "held")
    teacher = SceneTeacher(pair, held, answers)
    backend = CpuBackend()
    without = decoder(replace(pair, draft=None), "autoregressive", backend=backend)
    methods = {f"{NO_DRAFT};{s}": partial(_decode, without, LONGEST, s) for s in SETTINGS}
    for name, trained in {BUNDLED: pair, **_trained(pair, out, KINDS)}.items():
        for policy in POLICIES if name not in VARIANTS else POLICIES[:1]:
            ours = decoder(trained, policy, backend=backend)
            for setting in SETTINGS if name not in VARIANTS else ("greedy",):
                method = partial(_decode, ours, LONGEST, setting)
                methods[f"{name};{policy};{setting}"] = method
    longest = sorted(range(len(answers)), key=lambda n: -len(answers[n]))[:count]
    tallies = {name: Tally() for name in methods}
    for _, found in interleaved(map(teacher.prompt, longest), methods):
        for name, decoded in found.items():
            tallies[name].add(decoded, found[_base(name)][0].tokens)
    rows = []
    for name, tally in tallies.items():
        if (base := _base(name)) != name:
            kind, policy, setting = name.split(";")
            figures = tally.figures(tallies[base])
            figures["level_ms"] = 1000 * tally.seconds["draft"] / figures["draft_passes"]
            row = {"kind": kind, "policy": policy, "setting": setting}
            rows.append(row | {key: round(figures[key], 3) for key in FIGURES})
    _write(out / SPEEDS, rows)


def _base(name: str) -> str:
    """The method without a draft, in the setting of another."""
    return f"{NO_DRAFT};{name.split(';')[-1]}"


def long_prompts(out: Path, count: int) -> None:
    """Decode ``count`` prompts of each length by every head; write `LONG`.

    No head has seen prompts so long, so that acceptance means little there. Compression reduces the
    draft's cache, its prefill, and the time of a draft pass. Policy chain gives all drafts trees of
    one shape.
    """
    pair, backend = load_pair(draft=None), CpuBackend()
    methods = {
        name: partial(_decode, decoder(trained, "chain", backend=backend), LONG_TOKENS, "greedy")
        for name, trained in _trained(pair, out, HEADS).items()
    }
    lengths: list[str] = []
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _, found in interleaved(_prompts(pair, count, lengths), methods):
        for name, (decoded,) in found.items():
            stats = decoded.stats
            results.setdefault((lengths[-1], name), []).append(
                {
                    "visual_tokens": stats.visual_tokens,
                    "kept": stats.draft_visual_tokens,
                    "prefill_ms": 1000 * stats.seconds.prefill_draft,
                    "level_ms": 1000 * stats.seconds.draft / max(1, stats.draft_passes),
                    "step_ms": 1000 * stats.decode_seconds / max(1, stats.steps),
                    "accepted": stats.mean_accepted,
                }
            )
    rows = []
    for (length, name), texts in results.items():
        medians = {key: round(median(one[key] for one in texts), 3) for key in texts[0]}
        rows.append({"prompt": length, "kind": name} | medians)
    _write(out / LONG, rows)


def _prompts(pair: LoadedPair, count: int, lengths: list[str]) -> Iterator[dict[str, Any]]:
    """``count`` prompts of each length; the name of each length is appended to ``lengths``."""
    pictures = [
        media
        for item in items(12 * max(PICTURES), SEEDS["held"])
        if item.kind == "image"
        for media in item.media
        if isinstance(media, Picture)
    ]
    for number in range(count):
        prompts: list[tuple[str, Any, str]] = []
        for frames in FRAMES:
            *_, clip = clips(number + 1, frames, SEEDS["held"])
            prompts.append((f"{frames} frames", [clip], "Describe this video in detail."))
        for many in PICTURES:
            media = pictures[number : number + many]
            prompts.append((f"{many} pictures", media, "Describe the pictures in detail."))
        for length, media, prompt in prompts:
            lengths.append(length)
            inputs = pair.family.prepare(media, prompt)
            yield {name: cast(value, pair.target) for name, value in inputs.items()}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

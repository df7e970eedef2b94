"""What the trained drafts are worth in time, decoding held-out scenes under several trees."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.distill.data import SceneTeacher, read_scenes
from benchmarks.distill.train import KINDS, VARIANTS, folder_of
from benchmarks.pairs import measured_pair
from sage_core.engine.decoder import DecodeOutput, SpeculativeDecoder
from sage_core.models.checkpoint import load_model
from sage_core.pair_loading import LoadedPair

SPEEDS = "speed.json"
BUNDLED = "the bundled draft"
POLICIES = ("sage", "eagle2", "static")
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 3},
}
LIMIT = 160
Way = tuple[str, str, str]
"""A draft, a policy and a setting."""


def load_draft(pair: LoadedPair, folder: Path) -> Any:
    """A trained head or model from its folder."""
    from sage_core.drafts.head.checkpoint import load_head
    from sage_core.drafts.head.config import is_head

    return load_head(folder, pair.target) if is_head(folder) else load_model(str(folder))


def measure(out: Path, count: int) -> None:
    """Decode ``count`` held-out scenes every backend, in rotated order; write `SPEEDS`.

    `train.VARIANTS` under ``sage`` and greedily, all others under every policy and setting.
    """
    pair = measured_pair(device="auto")
    scenes, answers = read_scenes(out, "held")
    teacher = SceneTeacher(pair, scenes, answers)
    drafts = {BUNDLED: pair.draft}
    for name in KINDS:
        if (out / folder_of(name)).is_dir():
            drafts[name] = load_draft(pair, out / folder_of(name))
    ways: list[Way] = [
        (name, policy, setting)
        for name in drafts
        for setting in SETTINGS
        for policy in POLICIES
        if name not in VARIANTS or (policy, setting) == ("sage", "greedy")
    ]
    decoders = {(name, policy): teacher.decoder(drafts[name], policy) for name, policy, _ in ways}
    plain = teacher.decoder(None, "autoregressive")
    found: dict[Way, list[dict[str, float]]] = {way: [] for way in ways}
    longest = sorted(range(len(answers)), key=lambda n: -len(answers[n]))[:count]
    for number, index in enumerate([longest[0], *longest]):  # the first is a warm-up
        inputs = teacher.prompt(index)
        base = {s: _decoded(plain, inputs, s) for s in SETTINGS}
        turn = number * 7 % len(ways)
        for way in ways[turn:] + ways[:turn]:
            output = _decoded(decoders[way[:2]], inputs, way[2])
            if number:
                found[way].append(_row(output, base[way[2]]))
        print(f"\r{number} of {len(longest)} scenes", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = [_summary(way, each) for way, each in found.items()]
    (out / SPEEDS).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _decoded(decoder: SpeculativeDecoder, inputs: dict[str, Any], setting: str) -> DecodeOutput:
    return decoder.generate(**inputs, max_new_tokens=LIMIT, **SETTINGS[setting])


def _row(output: DecodeOutput, base: DecodeOutput) -> dict[str, float]:
    stats = output.stats
    return {
        "ratio": stats.tokens_per_second / base.stats.tokens_per_second,
        "rate": stats.tokens_per_second,
        "accepted": stats.accepted,
        "steps": stats.steps,
        "level_ms": 1000 * stats.seconds.draft / max(1, stats.draft_passes),
        "passes": stats.draft_passes,
        "same": float(torch.equal(output.sequences, base.sequences)),
    }


def _summary(way: Way, rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    def total(name: str) -> float:
        return sum(row[name] for row in rows)

    return {
        "kind": way[0],
        "policy": way[1],
        "setting": way[2],
        "scenes": len(rows),
        "tokens_per_second": round(median(row["rate"] for row in rows), 1),
        "ratio": round(median(row["ratio"] for row in rows), 3),
        "accepted": round(total("accepted") / max(1.0, total("steps")), 3),
        "passes": round(total("passes") / max(1.0, total("steps")), 2),
        "level_ms": round(median(row["level_ms"] for row in rows), 3),
        "same": int(total("same")),
    }

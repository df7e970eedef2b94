"""Many visual tokens: what each kind of head keeps of them, and what that costs.

Clips of ever more frames and pages of several pictures, of which the heads have seen none so long:
what is accepted there is reported, and means little. What compression is for is the draft's cache,
the reading of the prompt, and the time of a draft pass.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.distill.data import HELD_SEED
from benchmarks.distill.speed import load_draft
from benchmarks.distill.train import KINDS, folder_of
from benchmarks.pruning import clips
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.media import Picture
from sage_core.models.inputs import cast
from sage_core.pair_loading import load_pair
from training.world.inputs import items

LONG = "long.json"
HEADS = (
    "head",
    "specvlm weighted 3x",
    "specvlm concat",
    "specvlm select",
    "prune 20x",
    "specvlm text",
    "vispec",
)
FRAMES, PICTURES = (8, 64, 256), (2, 8, 32)
NEW_TOKENS = 48


def _inputs(pair: Any, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Prompts by name, ``count`` of each length."""
    pictures = [
        media
        for item in items(12 * max(PICTURES), HELD_SEED)
        if item.kind == "image"
        for media in item.media
        if isinstance(media, Picture)
    ]
    for number in range(count):
        for frames in FRAMES:
            clip = list(clips(number + 1, frames, HELD_SEED))[number]
            yield f"{frames} frames", pair.family.prepare([clip], "Describe this video in detail.")
        for many in PICTURES:
            shown = pictures[number : number + many]
            asked = "Describe the pictures in detail."
            yield f"{many} pictures", pair.family.prepare(shown, asked)


def measure(out: Path, count: int) -> None:
    """Decode ``count`` prompts of each length with every head under a chain; write `LONG`."""
    pair = load_pair(draft=None)
    names = [name for name in HEADS if (out / folder_of(name)).is_dir() and name in KINDS]
    drafts = {name: load_draft(pair, out / folder_of(name)) for name in names}
    # Trees of one shape, so that a pass of every draft has the same rows.
    decoders = {
        name: SpeculativeDecoder(pair.target, draft, "chain", runner=pair.runners)
        for name, draft in drafts.items()
    }
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number, (length, prepared) in enumerate(_inputs(pair, count)):
        inputs = {name: cast(value, pair.target) for name, value in prepared.items()}
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            stats = decoders[name].generate(**inputs, max_new_tokens=NEW_TOKENS).stats
            found.setdefault((length, name), []).append(
                {
                    "visual_tokens": stats.visual_tokens,
                    "kept": stats.draft_visual_tokens,
                    "prefill_ms": 1000 * stats.seconds.prefill_draft,
                    "level_ms": 1000 * stats.seconds.draft / max(1, stats.draft_passes),
                    "step_ms": 1000 * stats.decode_seconds / max(1, stats.steps),
                    "accepted": stats.mean_accepted,
                }
            )
        print(f"\r{number + 1} prompts", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = [
        {"prompt": length, "kind": name}
        | {key: round(median(row[key] for row in each), 3) for key in each[0]}
        for (length, name), each in found.items()
    ]
    (out / LONG).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

"""Short training runs on a tiny random target with tiny images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sage_core.distill.options import DistillOptions
from sage_core.distill.report import Report
from sage_core.distill.run import distill
from sage_core.distill.trainer import Event
from sage_core.pair_loading import LoadedPair, load_pair
from tests.core import saved_families

PICTURES = 6


def save_data(folder: Path, family: str = "llava_onevision") -> tuple[Path, Path]:
    """A target's checkpoint and a folder of images."""
    target = saved_families.save(folder / "target", family, 2, 0)
    pictures = folder / "pictures"
    pictures.mkdir()
    for seed in range(PICTURES):
        saved_families.picture(24, 16, seed).image.save(pictures / f"{seed}.png")
    return target, pictures


def load_target(target: Path, dtype: str = "float32") -> LoadedPair:
    return load_pair(target, None, device="cpu", dtype=dtype)


def options(**more: Any) -> DistillOptions:
    given: dict[str, Any] = {"steps": 4, "batch": 2, "max_new_tokens": 10, "checkpoint_every": 2}
    return DistillOptions(**{**given, **more})


def train(
    target: Path,
    data: Path,
    output: Path,
    *,
    resume: bool = False,
    dtype: str = "float32",
    **more: Any,
) -> tuple[Report | None, list[Event]]:
    """A run in this process, with a target loaded for it."""
    events: list[Event] = []
    pair = load_target(target, dtype)
    report = distill(pair, data, output, options(**more), events.append, resume=resume)
    return report, events

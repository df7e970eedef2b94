"""Training: every kind of draft on the same samples of one target, in the same order."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.distill.data import SceneTeacher, read_scenes
from sage_core.distill.logs import LOG, Log
from sage_core.distill.options import DistillOptions
from sage_core.distill.process_group import ProcessGroup
from sage_core.distill.run import new_student
from sage_core.distill.state import load_state
from sage_core.distill.trainer import Trainer
from sage_core.pair_loading import load_pair

ROWS = "train.jsonl"
VISUAL_TOKENS = 78  # of an image


def _branches() -> dict[str, dict[str, Any]]:
    """Each branch of the compressor alone, at ratios of 2 to 20; a resampler has the number of
    queries that the ratio leaves."""
    found: dict[str, dict[str, Any]] = {}
    for ratio in (2, 5, 20):
        for mode in ("prune", "pool", "convolution"):
            found[f"{mode} {ratio}x"] = {"kind": "specvlm", "mode": mode, "ratio": float(ratio)}
        resampler = {"mode": "resampler", "queries": round(VISUAL_TOKENS / ratio)}
        found["{mode} {queries} queries".format(**resampler)] = {"kind": "specvlm", **resampler}
    return found


MAIN: dict[str, dict[str, Any]] = {
    "head": {},
    "head, loss acceptance": {"loss": "acceptance"},
    "specvlm weighted 3x": {"kind": "specvlm"},
    "specvlm concat": {"kind": "specvlm", "mode": "concat"},
    "specvlm select": {"kind": "specvlm", "mode": "select"},
    "specvlm text": {"kind": "specvlm", "mode": "text"},
    "vispec": {"kind": "vispec"},
    "model": {"kind": "model"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "head, few steps": {},
    "head, one step": {"depths": 1},
    "specvlm weighted 5x": {"kind": "specvlm", "ratio": 5.0},
    **_branches(),
}
LONGER: dict[str, dict[str, Any]] = {"head, longer": {"decay": 0.2}}
KINDS = {**MAIN, **VARIANTS, **LONGER}
GROUPS = {"main": MAIN, "variants": VARIANTS, "longer": LONGER}


def folder_of(out: Path, name: str) -> Path:
    """The folder of a kind."""
    return out / name.replace(",", "").replace(" ", "-")


def train(out: Path, kinds: Sequence[str], steps: int, every: int, batch: int) -> None:
    """Train kinds or groups of them one after another; append a row of `ROWS` for each."""
    scenes, answers = read_scenes(out, "train")
    held_scenes, held_answers = read_scenes(out, "held")
    teacher = SceneTeacher(load_pair(draft=None), scenes + held_scenes, answers + held_answers)
    known = len(scenes) + len(held_scenes)
    for index in range(known):  # read once, so that no kind's time includes it
        teacher.example(index)
    parts = list(range(len(scenes))), list(range(len(scenes), known))
    for name in [one for kind in kinds for one in GROUPS.get(kind, [kind])]:
        settings: dict[str, Any] = {"steps": steps, "batch": batch, "checkpoint_every": every}
        options = DistillOptions(**KINDS[name], **settings)
        row = json.dumps(_train(name, teacher, parts, folder_of(out, name), options))
        print(row, flush=True)
        with (out / ROWS).open("a", encoding="utf-8") as rows:
            rows.write(row + "\n")


def _train(
    name: str,
    teacher: SceneTeacher,
    parts: tuple[list[int], list[int]],
    folder: Path,
    options: DistillOptions,
) -> dict[str, Any]:
    """The acceptance of one kind along its training, which resumes what is in ``folder``."""
    identity = {"kind": name, "batch": options.batch}
    student, group = new_student(teacher, options), ProcessGroup(teacher.device)
    trainer = Trainer(
        student, teacher, *parts, options, folder, identity, group, lambda event: None
    )
    if (state := load_state(folder, identity)) is not None:
        trainer.resume(state)
    log = Log(folder, trainer.step)
    trainer.run(log)
    log.close()
    with (folder / LOG).open(newline="", encoding="utf-8") as file:
        evaluated = [row for row in csv.DictReader(file) if row["name"] == "tau"]
    return {
        "kind": name,
        "parameters": trainer.parameters,
        "batch": options.batch,
        "tau_by_step": {int(row["step"]): round(float(row["value"]), 3) for row in evaluated},
        "seconds_by_step": {int(row["step"]): float(row["seconds"]) for row in evaluated},
        "by_depth": [round(share, 3) for share in trainer.acceptance.by_depth],
        "by_rank": [round(share, 3) for share in trainer.acceptance.by_rank],
    }

"""Training: one target's lessons, every kind of draft, the same samples in the same order."""

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
from sage_core.distill.state import STATE, load_state
from sage_core.distill.trainer import Event, Trainer
from sage_core.pair_loading import load_pair

ROWS = "train.jsonl"


def _branches() -> dict[str, dict[str, Any]]:
    """Each branch of the compressor alone, at ratios of 2 to 20; queries stand for a resampler's
    ratio, of the 78 tokens of a picture."""
    found: dict[str, dict[str, Any]] = {}
    for ratio in (2, 5, 20):
        for mode in ("prune", "pool", "convolution"):
            found[f"{mode} {ratio}x"] = {"kind": "specvlm", "mode": mode, "ratio": float(ratio)}
        queries = round(78 / ratio)
        name = f"resampler {queries} queries"
        found[name] = {"kind": "specvlm", "mode": "resampler", "queries": queries}
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
GROUPS = {"main": list(MAIN), "variants": list(VARIANTS), "longer": list(LONGER)}


def folder_of(name: str) -> str:
    """A kind's folder."""
    return name.replace(",", "").replace(" ", "-")


def train(out: Path, names: Sequence[str], steps: int, every: int, batch: int) -> None:
    """Train kinds one after another, each from where it was left; a row of `ROWS` for each."""
    scenes, answers = read_scenes(out, "train")
    held_scenes, held_answers = read_scenes(out, "held")
    teacher = SceneTeacher(load_pair(draft=None), scenes + held_scenes, answers + held_answers)
    rest = list(range(len(scenes)))
    held = list(range(len(scenes), len(scenes) + len(held_scenes)))
    for index in rest + held:  # read once, in the time of no kind
        teacher.example(index)
    for name in names:
        row = _train(name, teacher, rest, held, out, steps, every, batch)
        print(json.dumps(row), flush=True)
        with (out / ROWS).open("a", encoding="utf-8") as rows:
            rows.write(json.dumps(row) + "\n")


def _train(
    name: str,
    teacher: SceneTeacher,
    rest: list[int],
    held: list[int],
    out: Path,
    steps: int,
    every: int,
    batch: int,
) -> dict[str, Any]:
    """One kind's acceptance along its training. A later run of more steps goes on from it."""
    options = DistillOptions(**KINDS[name], steps=steps, batch=batch, checkpoint_every=every)
    folder = out / folder_of(name)
    plan = {"kind": name, "batch": batch}
    student = new_student(teacher, options)
    crew = ProcessGroup(teacher.target.device)
    trainer = Trainer(student, teacher, rest, held, options, folder, plan, crew, _say_nothing)
    if (folder / STATE).is_file():
        trainer.resume(load_state(folder, plan))
    log = Log(folder, trainer.step)
    trainer.run(log)
    log.close()
    judged = _judged(folder / LOG)
    return {
        "kind": name,
        "parameters": sum(p.numel() for p in student.module.parameters() if p.requires_grad),
        "batch": batch,
        "tau_by_step": {step: round(tau, 3) for step, (_, tau) in judged.items()},
        "seconds_by_step": {step: round(seconds, 1) for step, (seconds, _) in judged.items()},
        "by_depth": [round(share, 3) for share in trainer.held_out.by_depth],
        "by_rank": [round(share, 3) for share in trainer.held_out.by_rank],
    }


def _judged(log: Path) -> dict[int, tuple[float, float]]:
    """Seconds and τ by step, over all parts of a run."""
    with log.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [row for row in rows if row["name"] == "tau"]
    return {int(row["step"]): (float(row["seconds"]), float(row["value"])) for row in found}


def _say_nothing(_event: Event) -> None:
    pass

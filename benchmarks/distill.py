"""Kinds of draft trained side by side: `python -m benchmarks.distill --out DIR --steps 200`.

One target pass serves all of them, they see the same samples in the same order, and they are judged
on the same held-out scenes: what differs is the kind alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from sage_core.distill.crew import Crew
from sage_core.distill.data import read_samples, split
from sage_core.distill.logs import Log
from sage_core.distill.options import DistillOptions
from sage_core.distill.report import measure
from sage_core.distill.run import new_student
from sage_core.distill.student import Acceptance, Student
from sage_core.distill.teacher import Teacher
from sage_core.distill.trainer import Trainer
from sage_core.models.loading import load_pair
from sage_core.world.render import draw_picture
from sage_core.world.scenes import random_chart, random_shapes, random_words

KINDS: dict[str, dict[str, Any]] = {
    "head": {},
    "head, one step": {"depths": 1},
    "head, loss acceptance": {"loss": "acceptance"},
    "specvlm weighted 3x": {"kind": "specvlm"},
    "specvlm concat": {"kind": "specvlm", "mode": "concat"},
    "specvlm select": {"kind": "specvlm", "mode": "select"},
    "specvlm text": {"kind": "specvlm", "mode": "text"},
    "vispec": {"kind": "vispec"},
    "model": {"kind": "model"},
}


def draw_pictures(folder: Path, count: int, seed: int) -> None:
    """Rendered scenes as PNG files, from a seed of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        scene = (random_shapes, random_chart, random_words)[number % 3](rng)
        draw_picture(scene).save(folder / f"{number:04}.png")


def judge(student: Student, teacher: Teacher, held: list[int]) -> Acceptance:
    found = Acceptance()
    for index in held:
        found += student.judge(teacher.lesson(index))
    return found


def train(name: str, teacher: Teacher, count: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One kind: its acceptance at several points of the training, and its speed at the end."""
    options = DistillOptions(
        **KINDS[name],
        steps=arguments.steps,
        batch=arguments.batch,
        checkpoint_every=max(1, arguments.steps // 5),
    )
    folder = arguments.out / name.replace(" ", "-").replace(",", "")
    rest, held = split(count, options.seed)
    student = new_student(teacher, options)
    events: list[Any] = []
    crew = Crew(teacher.target.device)
    trainer = Trainer(student, teacher, rest, held, options, folder, {}, crew, events.append)
    started = perf_counter()
    trainer.run(Log(folder))
    found = judge(student, teacher, held)
    draft = student.load(folder)
    speeds = measure(teacher, held, [(name, draft)], 96)
    return {
        "kind": name,
        "parameters": sum(p.numel() for p in student.module.parameters() if p.requires_grad),
        "seconds": round(perf_counter() - started, 1),
        "tau_by_step": {e.step: round(e.values["tau"], 3) for e in events if "tau" in e.values},
        "by_depth": [round(share, 3) for share in found.by_depth],
        "tokens_per_second": {s.draft: round(s.tokens_per_second, 1) for s in speeds},
        "accepted": round(speeds[-1].mean_accepted, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=120)
    parser.add_argument("--kinds", help="names between semicolons; all by default")
    arguments = parser.parse_args()
    pictures = arguments.out / "pictures"
    draw_pictures(pictures, arguments.pictures, 2026)
    samples = read_samples(pictures, print)
    # The known draft only writes the answers faster.
    teacher = Teacher(load_pair(), samples, DistillOptions(steps=1))
    with (arguments.out / "distill.jsonl").open("a", encoding="utf-8") as out:
        for name in (arguments.kinds or ";".join(KINDS)).split(";"):
            row = train(name, teacher, len(samples), arguments)
            print(json.dumps(row), flush=True)
            out.write(json.dumps(row) + "\n")
            out.flush()


if __name__ == "__main__":
    main()

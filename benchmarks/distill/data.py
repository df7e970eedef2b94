"""Training and held-out scenes of the bundled world, with the target's answers.

Training and held-out scenes have different seeds. The target writes the answers once; they are kept
as token ids beside the drafts, so that every kind and every process reads the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import progress
from sage_core.distill.data import Sample
from sage_core.distill.options import DistillOptions
from sage_core.distill.teacher import Teacher
from sage_core.pair_loading import LoadedPair
from training.world.inputs import Item, items

SEEDS = {"train": 5_000_011, "held": 6_000_011}
LEAST, LONGEST = 12, 160
"""Tokens of an answer: shorter ones are left out, longer ones cut."""
ANSWERS = "answers.json"


class SceneTeacher(Teacher):
    """A teacher whose samples are scenes in memory with given answers."""

    def __init__(self, pair: LoadedPair, scenes: list[Item], answers: list[list[int]]) -> None:
        samples = [Sample(scene.name, ()) for scene in scenes]
        super().__init__(pair, samples, DistillOptions(steps=1))
        self._scenes = scenes
        self._answers = {n: torch.tensor(ids) for n, ids in enumerate(answers)}

    def _read(self, index: int) -> dict[str, Any]:
        scene = self._scenes[index]
        return self.pair.family.prepare(list(scene.media), scene.prompt)


def write_answers(pair: LoadedPair, folder: Path, train: int, held: int) -> None:
    """Keep ``train`` and ``held`` scenes whose answers have at least `LEAST` tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = SceneTeacher(pair, [], []).decoder(pair.draft)
    chosen: dict[str, list[Any]] = {}
    for name, count in (("train", train), ("held", held)):
        chosen[name] = []
        for number, scene in enumerate(items(20 * count, SEEDS[name])):
            if len(chosen[name]) == count:
                break
            inputs = SceneTeacher(pair, [scene], []).prompt(0)
            output = writer.generate(**inputs, max_new_tokens=LONGEST)
            ids: list[int] = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
            if len(ids) >= LEAST:
                chosen[name].append([number, ids])
            progress(f"{name}: {len(chosen[name])} answers")
    progress("")
    (folder / ANSWERS).write_text(json.dumps(chosen), encoding="utf-8")


def read_scenes(folder: Path, name: str) -> tuple[list[Item], list[list[int]]]:
    """The scenes of ``train`` or ``held``, and their answers."""
    chosen = dict(json.loads((folder / ANSWERS).read_text(encoding="utf-8"))[name])
    drawn = enumerate(items(max(chosen) + 1, SEEDS[name]))
    return [scene for n, scene in drawn if n in chosen], list(chosen.values())

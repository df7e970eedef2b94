"""What all kinds are trained and judged on: scenes of the bundled world, in the target's words.

Items for training and for judging have seeds of their own. The target writes the answers once, and
they are kept as token ids beside the drafts, so that every kind and every process reads the same.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from sage_core.distill.data import Sample
from sage_core.distill.options import DistillOptions
from sage_core.distill.teacher import Teacher
from sage_core.pair_loading import LoadedPair
from training.world.inputs import Item, items

TRAIN_SEED, HELD_SEED = 5_000_011, 6_000_011
LEAST, LONGEST = 12, 160
"""Tokens of an answer that is taken; longer ones end there."""
ANSWERS = "answers.json"


class SceneTeacher(Teacher):
    """A teacher whose samples are scenes in memory, with answers that were written before."""

    def __init__(
        self, pair: LoadedPair, scenes: list[Item], answers: list[list[int]], seed: int = 0
    ) -> None:
        samples = [Sample(scene.name, ()) for scene in scenes]
        super().__init__(pair, samples, DistillOptions(steps=1, seed=seed))
        self._scenes = scenes
        self._answers = {n: torch.tensor(ids) for n, ids in enumerate(answers)}

    def _read(self, index: int) -> dict[str, Any]:
        scene = self._scenes[index]
        return self.pair.family.prepare(list(scene.media), scene.prompt)


def write_answers(pair: LoadedPair, folder: Path, train: int, held: int) -> None:
    """Choose scenes with an answer of some length, ``train`` and ``held`` of them, and keep it."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = SceneTeacher(pair, [], []).decoder(pair.draft)
    chosen: dict[str, list[Any]] = {}
    for name, seed, count in (("train", TRAIN_SEED, train), ("held", HELD_SEED, held)):
        chosen[name] = []
        for number, scene in enumerate(items(20 * count, seed)):
            if len(chosen[name]) == count:
                break
            inputs = SceneTeacher(pair, [scene], []).prompt(0)
            output = writer.generate(**inputs, max_new_tokens=LONGEST)
            ids: list[int] = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
            if len(ids) >= LEAST:
                chosen[name].append([number, ids])
            if sys.stderr.isatty() or number % 100 == 0:
                print(f"\r{name}: {len(chosen[name])} answers", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    (folder / ANSWERS).write_text(json.dumps(chosen), encoding="utf-8")


def read_scenes(folder: Path, name: str) -> tuple[list[Item], list[list[int]]]:
    """The scenes of ``train`` or ``held``, and their answers."""
    seed = {"train": TRAIN_SEED, "held": HELD_SEED}[name]
    chosen = json.loads((folder / ANSWERS).read_text(encoding="utf-8"))[name]
    numbers = {number for number, _ in chosen}
    drawn = enumerate(items(max(numbers) + 1, seed))
    return [scene for n, scene in drawn if n in numbers], [ids for _, ids in chosen]

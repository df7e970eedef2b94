"""The bundled head: `python -m training.head answers --out OUT`, then `train`, then `acceptance`.

One layer on the target's features, trained on scenes of every category. Some have answers of the
target, most of them greedy, some sampled; they are few, so the head would overfit to them alone.
The others are new at every step, with the texts that the target was trained on. Both stages resume
from what is in the folder. Finally the acceptance bias of the head is fitted on texts of other
scenes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from sage_core.distill.acceptance_fit import fit_acceptance
from sage_core.distill.data import Sample
from sage_core.distill.logs import Log
from sage_core.distill.options import DistillOptions
from sage_core.distill.process_group import ProcessGroup
from sage_core.distill.run import new_student
from sage_core.distill.state import load_state
from sage_core.distill.teacher import Example, Teacher
from sage_core.distill.trainer import Event, Trainer
from sage_core.drafts.head.checkpoint import load_head, save_head
from sage_core.media import Sampling
from sage_core.models.families.base import Turn
from sage_core.pair_loading import LoadedPair, load_pair
from training.bench_items import Rendered
from training.world.heldout import CATEGORIES
from training.world.inputs import items as mixed_items

SEEDS = {"train": 7_000_013, "held": 8_000_003, "fresh": 9_000_011, "acceptance": 10_000_019}
LEAST, LONGEST = 4, 160
"""Tokens of an answer: shorter ones are skipped, longer ones are cut."""
DRAWN, TEMPERATURE = 5, 0.8
"""One training text of so many is sampled at this temperature; the others are greedy."""
LONG = ("captions", "charts", "text", "motion", "turns")
AGAIN = 4
"""How often each scene with an answer of the target is used for `FRESH` new scenes."""
FRESH = 30_000
NODES = 100_000
"""Tree nodes that the acceptance bias is fitted to."""
ROOM = 6 * 1024**3
Scene = list[Turn]
"""A conversation whose last turn has no answer yet; media are in the first turn."""


def scenes(seed: int) -> Iterator[Scene]:
    """Scenes without end: the categories of `heldout` in turn, then an image, several, a video."""
    mixed = mixed_items(1 << 30, seed)
    index = 0
    while True:
        for category in CATEGORIES:
            yield _conversation(Rendered(category, index, seed))
        for other in islice(mixed, 3):
            yield [Turn(other.media, other.prompt)]
        index += 1


def _conversation(source: Rendered) -> Scene:
    drawn, media = source.item(), source.open(Sampling())
    said = [(turn.user, turn.answer) for turn in drawn.history]
    turns: list[tuple[str, str | None]] = [*said, (drawn.prompt, None)]
    return [
        Turn(media if number == 0 else (), text, answer)
        for number, (text, answer) in enumerate(turns)
    ]


class SceneTeacher(Teacher):
    """A teacher with conversations in memory, followed by ``fresh`` new scenes."""

    def __init__(
        self, pair: LoadedPair, given: list[Scene], options: DistillOptions, fresh: int = 0
    ) -> None:
        self._texts = [Sample(str(number), ()) for number in range(len(given) + fresh)]
        super().__init__(pair, self._texts, options, cache_bytes=ROOM)
        self._given = given

    def _read(self, index: int) -> dict[str, Any]:
        family, turns = self.pair.family, self._scene(index)
        media = turns[0].media
        return family.build_inputs(family.render(turns), media, family.process_media(media))

    def _scene(self, index: int) -> Scene:
        if index < len(self._given):
            return self._given[index]
        return _conversation(self._fresh(index))

    def _fresh(self, index: int) -> Rendered:
        number, category = divmod(index - len(self._given), len(LONG))
        # Prompts with even numbers usually ask for a description, others for a short answer.
        return Rendered(LONG[category], 2 * number, SEEDS["fresh"])

    def _answer(self, index: int, inputs: dict[str, Any]) -> torch.Tensor:
        if index >= len(self._given):
            self._texts[index] = Sample(str(index), (), None, self._fresh(index).item().reference)
        return super()._answer(index, inputs)

    def example(self, index: int) -> Example:
        return super().example(index) if index < len(self._given) else self._example(index)

    def _example(self, index: int) -> Example:
        # A head reads no pixels; without them ten times as many examples fit into memory.
        return replace(super()._example(index), inputs={})

    def with_answers(self, answers: list[list[int]]) -> SceneTeacher:
        """This teacher with given answers, in order."""
        self._answers = {number: torch.tensor(ids) for number, ids in enumerate(answers)}
        return self


def write_answers(out: Path, counts: dict[str, int]) -> None:
    """Complete each file: a line for each scene, [number, [token ids]]."""
    out.mkdir(parents=True, exist_ok=True)
    pair = load_pair(draft="sage-tiny-head")
    greedy = DistillOptions(steps=1, max_new_tokens=LONGEST)
    for name, count in counts.items():
        path = out / f"{name}.jsonl"
        known = _lines(path)
        with path.open("a", encoding="utf-8") as file:
            start = 1 + (known[-1][0] if known else -1)
            left = count - len(known)
            for number, scene in enumerate(islice(scenes(SEEDS[name]), start, None), start):
                if left <= 0:
                    break
                drawn = name == "train" and number % DRAWN == 0
                options = replace(greedy, temperature=TEMPERATURE, seed=number) if drawn else greedy
                teacher = SceneTeacher(pair, [scene], options)
                ids = teacher.answer(0, teacher.prompt(0)).tolist()
                if len(ids) >= LEAST:
                    file.write(json.dumps([number, ids]) + "\n")
                    file.flush()
                    left -= 1
                if number % 100 == 0:
                    print(f"{name}: {left} to go", file=sys.stderr, flush=True)


def _lines(path: Path) -> list[tuple[int, list[int]]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _read(out: Path, name: str) -> tuple[list[Scene], list[list[int]]]:
    chosen = dict(_lines(out / f"{name}.jsonl"))
    drawn = enumerate(islice(scenes(SEEDS[name]), max(chosen) + 1))
    return [scene for number, scene in drawn if number in chosen], list(chosen.values())


def train(out: Path, start: Path | None, options: DistillOptions) -> None:
    """Train the head; the best one by held-out τ is written to ``out / "head"``."""
    given, answers = _read(out, "train")
    held_given, held_answers = _read(out, "held")
    pair = load_pair(draft=None)
    known = len(given) + len(held_given)
    teacher = SceneTeacher(pair, given + held_given, options, FRESH).with_answers(
        answers + held_answers
    )
    rest = [*range(len(given))] * AGAIN + [*range(known, known + FRESH)]
    held = list(range(len(given), known))
    folder = out / "head"
    student = new_student(teacher, options)
    if start is not None:
        weights = load_head(start, pair.target).state_dict()
        student.module.load_state_dict(weights, strict=False)  # without the acceptance bias
    group = ProcessGroup(torch.device(pair.device))
    plan = {"kind": "bundled head", "batch": options.batch}
    trainer = Trainer(student, teacher, rest, held, options, folder, plan, group, _report)
    if (state := load_state(folder, plan)) is not None:
        trainer.resume(state)
    log = Log(folder, trainer.step)
    trainer.run(log)
    log.close()


def accept(out: Path) -> None:
    """Fit the acceptance bias of the head in ``out / "head"`` on scenes it was not trained on."""
    pair = load_pair(draft=None)
    head = load_head(out / "head", pair.target)
    options = DistillOptions(steps=1, max_new_tokens=LONGEST)
    prompts = (
        SceneTeacher(pair, [scene], options).prompt(0) for scene in scenes(SEEDS["acceptance"])
    )
    count = fit_acceptance(pair.target, head, prompts, LONGEST, max_nodes=NODES)
    save_head(head.to(torch.bfloat16), out / "head")
    print(f"fitted to {count} nodes")


def _report(event: Event) -> None:
    if "tau" in event.values or event.note:
        values = " ".join(f"{name} {value:.3f}" for name, value in event.values.items())
        print(f"step {event.step}, {event.seconds:.0f} s: {values}{event.note}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", choices=["answers", "train", "acceptance"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--held", type=int, default=54)
    parser.add_argument("--start", type=Path, help="a head to start from")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--every", type=int, default=250, help="steps between evaluations of τ")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--depths", type=int, default=3)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--decay", type=float, default=0.2)
    parser.add_argument("--ce-weight", type=float, default=0.1)
    parser.add_argument("--feature-weight", type=float, default=1.0)
    parser.add_argument("--loss", default="sage")
    chosen = vars(parser.parse_args())
    stage, out, start = chosen.pop("stage"), chosen.pop("out"), chosen.pop("start")
    count, held = chosen.pop("scenes"), chosen.pop("held")
    if stage == "answers":
        write_answers(out, {"held": held, "train": count})
    elif stage == "acceptance":
        accept(out)
    else:
        every = chosen.pop("every")
        train(out, start, DistillOptions(**chosen, checkpoint_every=every))


if __name__ == "__main__":
    main()

"""Drills: only the conclusion of an explained answer is trained, without an image.

Sums, relations and comparisons. The scene of a drill is never drawn: question and findings are
given in the prompt, so that nothing is trained that depends on an image that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.world.questions import ask
from training.world.scenes import Scene, random_chart, random_pair, random_shapes

_KINDS: tuple[tuple[float, str, Callable[[np.random.Generator], Scene]], ...] = (
    (0.30, "sum", random_chart),
    (0.45, "compare", random_chart),
    (0.80, "relation", random_shapes),
    (1.00, "pair", random_pair),
)
"""Cumulative probability, kind of question, and its scenes."""


@dataclass(frozen=True)
class Drill:
    """A question, the given findings, and the conclusion, which is trained."""

    question: str
    given: str
    conclusion: str


def drill(rng: np.random.Generator) -> Drill:
    """A random drill; scenes are made until one has a question of the kind."""
    draw = rng.random()
    _, kind, make = next(row for row in _KINDS if draw < row[0])
    while True:
        scene = make(rng)
        for _ in range(20):
            item = ask(rng, scene)
            given, found, last = item.answer.rpartition(", ")
            if item.kind == kind and found:
                return Drill(item.question, given, found + last)

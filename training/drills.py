"""The last step of an explained answer alone: sums, relations and comparisons, without a picture.

The scene of a drill is never drawn. Question and findings are given, and only what follows from
the findings is learnt, so nothing is taught that the picture in the same row does not show.
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
"""Up to which draw, the kind of question, and its scenes."""


@dataclass(frozen=True)
class Drill:
    """A question, the findings that are given, and the conclusion to be learnt."""

    question: str
    given: str
    conclusion: str


def drill(rng: np.random.Generator) -> Drill:
    """One of them; scenes are drawn until one has a question of the kind."""
    draw = rng.random()
    _, kind, make = next(row for row in _KINDS if draw < row[0])
    while True:
        scene = make(rng)
        for _ in range(20):
            item = ask(rng, scene)
            given, found, last = item.answer.rpartition(", ")
            if item.kind == kind and found:
                return Drill(item.question, given, found + last)

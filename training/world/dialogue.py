"""Conversations about a scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from training.world.captions import caption
from training.world.phrases import CAPTION_PROMPTS, VIDEO_PROMPTS
from training.world.questions import ask
from training.world.scenes import (
    Clip,
    Pair,
    Scene,
    choose,
    random_chart,
    random_clip,
    random_pair,
    random_shapes,
    random_words,
)

IMAGE_PROMPT = "Describe this image in detail."
VIDEO_PROMPT = "Describe this video in detail."


@dataclass(frozen=True)
class Turn:
    """A prompt of the user and the answer of the model."""

    user: str
    answer: str


Conversation = tuple[Turn, ...]


def random_scene(rng: np.random.Generator, easy: bool = False) -> Scene:
    """A scene of any kind, in the proportions of training; easy ones have few shapes."""
    kind = rng.random()
    if kind < 0.30:
        return random_shapes(rng, 1, 3 if easy else 6)
    if kind < 0.48:
        return random_chart(rng)
    if kind < 0.62:
        return random_words(rng)
    return random_clip(rng) if kind < 0.90 else random_pair(rng)


def captioned(rng: np.random.Generator, scene: Scene) -> int:
    """The number of captions in a training row; the rest of the row is questions."""
    if isinstance(scene, Pair):
        return 0
    return int(rng.random() < (0.5 if isinstance(scene, Clip) else 0.35))


def caption_turn(rng: np.random.Generator, scene: Scene) -> Turn:
    if isinstance(scene, Pair):
        return question_turn(rng, scene)
    default: str = IMAGE_PROMPT
    others: tuple[str, ...] = CAPTION_PROMPTS
    if isinstance(scene, Clip):
        default, others = VIDEO_PROMPT, VIDEO_PROMPTS
    prompt = default if rng.random() < 0.6 else choose(rng, others)
    return Turn(prompt, caption(rng, scene))


def question_turn(
    rng: np.random.Generator, scene: Scene, keep: Mapping[str, float] | None = None
) -> Turn:
    """A question; of the kinds in ``keep`` only that share is asked."""
    item = ask(rng, scene)
    for _ in range(4):
        if not keep or rng.random() < keep.get(item.kind, 1.0):
            break
        item = ask(rng, scene)
    return Turn(item.question, item.answer)


def conversations(
    rng: np.random.Generator,
    scene: Scene,
    captions: int,
    questions: int,
    keep: Mapping[str, float] | None = None,
) -> list[Conversation]:
    """Independent conversations about one scene; some have several turns.

    Args:
        keep: the share of questions that is asked, by kind; kinds that are not named have all.
    """
    out: list[Conversation] = [(caption_turn(rng, scene),) for _ in range(captions)]
    asked: set[str] = set()
    while questions > 0:
        turns = int(rng.integers(2, 4)) if rng.random() < 0.08 else 1
        made: list[Turn] = []
        for _ in range(turns):
            turn = question_turn(rng, scene, keep)
            if turn.user not in asked or turns > 1:
                made.append(turn)
            asked.add(turn.user)
        questions -= turns
        if made:
            out.append(tuple(made))
    return out

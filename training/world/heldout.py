"""Held-out items by seed, for tests and benchmarks: images or frames, a prompt, the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from training.world.answers import Answered
from training.world.captions import caption
from training.world.dialogue import IMAGE_PROMPT, VIDEO_PROMPT, Turn
from training.world.facts import Slots, scene_slots
from training.world.questions import ask, ask_shapes
from training.world.render import draw
from training.world.scenes import (
    CLIP_FRAMES,
    Clip,
    Pair,
    Scene,
    random_chart,
    random_clip,
    random_pair,
    random_shapes,
    random_words,
)

CATEGORIES = ("captions", "charts", "counting", "text", "motion", "turns")
_REALM = 90_001  # keeps these seeds separate from those of training


@dataclass(frozen=True)
class HeldOutItem:
    """One request; ``images`` are images, or the frames of a video if ``video``."""

    id: str
    category: str
    scene: Scene
    images: tuple[Image.Image, ...]
    video: bool
    prompt: str
    history: tuple[Turn, ...] = ()  # earlier turns of the conversation
    facts: Slots | None = None  # for captions
    answer: Answered | None = None  # for questions
    reference: str = ""


def _described(rng: np.random.Generator, scene: Scene) -> tuple[str, Slots | None, str]:
    assert not isinstance(scene, Pair)
    prompt = VIDEO_PROMPT if isinstance(scene, Clip) else IMAGE_PROMPT
    return prompt, scene_slots(scene), caption(rng, scene)


def item(index: int, seed: int, category: str) -> HeldOutItem:
    """The item of a category with an index; equal arguments give equal items."""
    place = CATEGORIES.index(category)
    rng = np.random.default_rng([_REALM, seed, place, index])
    scene: Scene
    question: Answered | None = None
    history: tuple[Turn, ...] = ()
    if category == "captions":
        scene = random_clip(rng) if index % 3 == 2 else random_shapes(rng)
    elif category == "charts":
        scene = random_chart(rng)
    elif category == "counting":
        scene = random_pair(rng) if index % 5 == 4 else random_shapes(rng)
        question = ask(rng, scene) if isinstance(scene, Pair) else ask_shapes(rng, scene)
        while question.kind not in ("counting", "pair"):
            question = ask(rng, scene)
    elif category == "text":
        scene = random_words(rng)
    elif category == "motion":
        scene = random_clip(rng)
    else:
        makers = (random_shapes, random_chart, random_clip, random_words)
        scene = makers[index % 4](rng)
        earlier = [ask(rng, scene) for _ in range(int(rng.integers(1, 3)))]
        history = tuple(Turn(a.question, a.answer) for a in earlier)
        question = ask(rng, scene)
    facts: Slots | None = None
    if question is None and (category == "captions" or index % 2 == 0):
        prompt, facts, reference = _described(rng, scene)
    else:
        question = question or ask(rng, scene)
        prompt, reference = question.question, question.answer
    video = isinstance(scene, Clip)
    images = tuple(draw(scene, CLIP_FRAMES))
    name = f"{category}-{seed}-{index}"
    return HeldOutItem(
        name, category, scene, images, video, prompt, history, facts, question, reference
    )


def items(n: int, seed: int = 0, categories: Sequence[str] = CATEGORIES) -> Iterator[HeldOutItem]:
    """``n`` items, the categories in turn."""
    for i in range(n):
        yield item(i // len(categories), seed, categories[i % len(categories)])

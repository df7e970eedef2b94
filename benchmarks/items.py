"""Inputs that no training saw: rendered scenes with a prompt each, by seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sage_core.media import Clip, Picture
from training import scenes
from training.dialogue import caption_turn, question_turn
from training.render import draw

HELD_OUT = 0x5A6E
"""Set apart from training's seeds by being a first entropy word that training never uses."""
FPS = 4.0
CATEGORIES = ("image", "images", "video")


@dataclass(frozen=True)
class Item:
    """One input: media seen together, and a prompt about them."""

    name: str
    category: str
    """``image``, ``images`` (two or more) or ``video``."""
    media: tuple[Picture | Clip, ...]
    prompt: str


def items(count: int, seed: int = 0, captions: float = 0.5) -> Iterator[Item]:
    """``count`` items, the categories in turn; ``captions`` is the share of long texts.

    Two pictures are a pair to compare, or any pictures with the prompt for one.
    """
    for index in range(count):
        rng = np.random.default_rng([HELD_OUT, seed, index])
        category = CATEGORIES[index % len(CATEGORIES)]
        yield _item(rng, index, category, bool(rng.random() < captions))


def _item(rng: np.random.Generator, index: int, category: str, caption: bool) -> Item:
    name = f"{category}-{index:03d}"
    turn = caption_turn if caption else question_turn
    if category == "video":
        clip = scenes.random_clip(rng)
        return Item(name, category, (_clip(draw(clip), name),), turn(rng, clip).user)
    if category == "images" and rng.random() < 0.5:
        pair = scenes.random_pair(rng)
        return Item(name, category, _pictures(draw(pair), name), question_turn(rng, pair).user)
    kinds = (scenes.random_shapes, scenes.random_chart, scenes.random_words)
    count = int(rng.integers(2, 4)) if category == "images" else 1
    shown = [kinds[int(rng.integers(len(kinds)))](rng) for _ in range(count)]
    drawn = [image for scene in shown for image in draw(scene)]
    return Item(name, category, _pictures(drawn, name), turn(rng, shown[0]).user)


def _pictures(images: list[Image.Image], name: str) -> tuple[Picture, ...]:
    return tuple(Picture(image.convert("RGB"), f"{name}-{i}") for i, image in enumerate(images))


def _clip(images: list[Image.Image], name: str) -> Clip:
    frames = np.stack([np.asarray(image.convert("RGB")) for image in images])
    times = np.arange(len(images)) / FPS
    return Clip(frames, times, FPS, len(images) / FPS, name)

"""Held-out scenes as inputs of the engine: opened media with a prompt each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from sage_core.media import Clip, Picture
from training.world.heldout import HeldOutItem, item

FPS = 4.0
"""Of rendered videos."""


@dataclass(frozen=True)
class Item:
    """One input: media that are shown together, and a prompt about them."""

    name: str
    kind: str
    """``image``, ``images`` (two or three) or ``video``."""
    media: tuple[Picture | Clip, ...]
    prompt: str


def items(count: int, seed: int = 0) -> Iterator[Item]:
    """``count`` items, the kinds in turn: captions and questions about shapes, bars and words.

    Several images are a pair to compare or, every other time, images of any sort with the prompt
    of the first. Equal arguments give equal items.
    """
    streams = (_image_items(seed), _images_items(seed), _video_items(seed))
    for number in range(count):
        yield next(streams[number % len(streams)])


def media_of(held: HeldOutItem) -> tuple[Picture | Clip, ...]:
    """The images or the video of a held-out item."""
    return (_clip(held.id, held.images),) if held.video else _pictures(held.id, held.images)


def _held_out(seed: int, categories: Sequence[str]) -> Iterator[HeldOutItem]:
    """Held-out items without end, the categories in turn."""
    index = 0
    while True:
        for category in categories:
            yield item(index, seed, category)
        index += 1


def _image_items(seed: int) -> Iterator[Item]:
    for held in _held_out(seed, ("captions", "charts", "counting", "text")):
        if not held.video and len(held.images) == 1:
            yield Item(held.id, "image", media_of(held), held.prompt)


def _images_items(seed: int) -> Iterator[Item]:
    mixed = _held_out(seed + 1_000_000, ("charts", "text", "counting"))
    pairs = (held for held in _held_out(seed, ("counting",)) if len(held.images) > 1)
    for number, pair in enumerate(pairs):
        yield Item(pair.id, "images", media_of(pair), pair.prompt)
        shown = list(islice(mixed, 2 + number % 2))
        drawn = [image for held in shown for image in held.images]
        name = "+".join(held.id for held in shown)
        yield Item(name, "images", _pictures(name, drawn), shown[0].prompt)


def _video_items(seed: int) -> Iterator[Item]:
    for held in _held_out(seed, ("motion", "captions")):
        if held.video:
            yield Item(held.id, "video", media_of(held), held.prompt)


def _pictures(name: str, images: Sequence[Image.Image]) -> tuple[Picture, ...]:
    return tuple(Picture(image.convert("RGB"), f"{name}.{i}") for i, image in enumerate(images))


def _clip(name: str, images: Sequence[Image.Image]) -> Clip:
    frames = np.stack([np.asarray(image.convert("RGB")) for image in images])
    times = np.arange(len(images)) / FPS
    return Clip(frames, times, FPS, len(images) / FPS, name)

"""What is decoded: media with one or several things that a user says about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sage_core.media import Clip, Picture, Sampling, open_media

__all__ = ["HELD_OUT", "Files", "Item", "Problem", "Rendered", "Request", "held_out"]

HELD_OUT = 60
"""Items of the default set: ten of each of six categories."""
CALIBRATION_SEED = 1_000_003
"""Of rendered items that no comparison measures: what settings are chosen on."""
_FPS = 4.0  # of rendered clips; the models see frames only


class Source(Protocol):
    """Where an item's media come from."""

    def open(self, sampling: Sampling) -> tuple[Picture | Clip, ...]:
        """Read or render them."""


@dataclass(frozen=True)
class Files:
    """Pictures and clips on a disk, seen together."""

    paths: tuple[str, ...]

    def open(self, sampling: Sampling) -> tuple[Picture | Clip, ...]:
        return tuple(open_media(path, sampling) for path in self.paths)


@dataclass(frozen=True)
class Rendered:
    """A held-out scene of the bundled pair's world, drawn when it is asked for."""

    category: str
    index: int
    seed: int

    def open(self, sampling: Sampling) -> tuple[Picture | Clip, ...]:
        drawn = self.item()
        images = [image.convert("RGB") for image in drawn.images]
        if not drawn.video:
            return tuple(Picture(image, f"{drawn.id}.{i}") for i, image in enumerate(images))
        times = np.arange(len(images)) / _FPS
        frames = np.stack([np.asarray(image) for image in images])
        return (Clip(frames, times, _FPS, len(images) / _FPS, drawn.id),)

    def item(self) -> Any:
        """The `HeldOutItem`, drawn anew."""
        from training.world import heldout

        return heldout.item(self.index, self.seed, self.category)


@dataclass(frozen=True)
class Request:
    """One text to decode: ``prompt`` about the media, after what was said before.

    A prompt of None is the usual request for a caption.
    """

    id: str
    category: str
    source: Source
    prompt: str | None
    history: tuple[tuple[str, str], ...] = ()
    """Earlier turns: what was said and what was answered."""


@dataclass(frozen=True)
class Item:
    """Media with one prompt, or several turns of a conversation about them.

    Each turn is a `Request` of its own. Its history holds the reference method's own answers to
    the turns before it, behind ``history``, which was there from the start.
    """

    id: str
    source: Source
    prompts: tuple[str | None, ...] = (None,)
    category: str = ""
    history: tuple[tuple[str, str], ...] = ()

    def request(self, turn: int, answers: Sequence[str]) -> Request:
        """The request of one turn, after the ``answers`` to those before it."""
        said = [(prompt or "", a) for prompt, a in zip(self.prompts[:turn], answers, strict=True)]
        history = (*self.history, *said)
        return Request(self.ids[turn], self.category, self.source, self.prompts[turn], history)

    @property
    def ids(self) -> tuple[str, ...]:
        """One id a turn: the item's own, or ``ID#1``, ``ID#2``, ... for several."""
        if len(self.prompts) == 1:
            return (self.id,)
        return tuple(f"{self.id}#{turn}" for turn in range(1, len(self.prompts) + 1))


@dataclass(frozen=True)
class Problem:
    """Data that cannot be used: where it stands, and what is wrong with it."""

    where: str
    message: str


def held_out(count: int = HELD_OUT, seed: int = 0) -> Iterator[Item]:
    """The default data: ``count`` rendered items, the six categories in turn."""
    from training.world.heldout import CATEGORIES

    for number in range(count):
        category = CATEGORIES[number % len(CATEGORIES)]
        source = Rendered(category, number // len(CATEGORIES), seed)
        drawn = source.item()
        history = tuple((turn.user, turn.answer) for turn in drawn.history)
        yield Item(drawn.id, source, (drawn.prompt,), category, history)

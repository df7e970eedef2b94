"""What is decoded: media with one prompt, or with several turns of a conversation about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sage_core.media import Clip, Opener, Picture, Sampling, open_media

__all__ = ["Files", "Item", "Problem", "Request", "Source"]


class Source(Protocol):
    """Where the media of an item come from."""

    def open(self, sampling: Sampling, opener: Opener = open_media) -> tuple[Picture | Clip, ...]:
        """Open them; files with ``opener``.

        Raises:
            InputError: one of them cannot be read.
        """


@dataclass(frozen=True)
class Files:
    """Images and videos on disk that are shown together."""

    paths: tuple[str, ...]

    def open(self, sampling: Sampling, opener: Opener = open_media) -> tuple[Picture | Clip, ...]:
        return tuple(opener(path, sampling) for path in self.paths)


@dataclass(frozen=True)
class Request:
    """One text to decode: ``prompt`` about the media, after the turns in ``history``.

    A prompt of None is the default request for a caption.
    """

    id: str
    category: str
    source: Source
    prompt: str | None
    history: tuple[tuple[str, str], ...] = ()
    """Earlier turns: (prompt, answer)."""


@dataclass(frozen=True)
class Item:
    """Media with one prompt, or with several turns of a conversation about them.

    Each turn is a `Request` of its own. Its history is ``history``, which is given with the item,
    followed by the earlier turns with the reference method's own answers.
    """

    id: str
    source: Source
    prompts: tuple[str | None, ...] = (None,)
    category: str = ""
    history: tuple[tuple[str, str], ...] = ()

    def request(self, turn: int, answers: Sequence[str]) -> Request:
        """The request of one turn; ``answers`` are those to the turns before it."""
        said = [(prompt or "", a) for prompt, a in zip(self.prompts[:turn], answers, strict=True)]
        history = (*self.history, *said)
        return Request(self.ids[turn], self.category, self.source, self.prompts[turn], history)

    @property
    def ids(self) -> tuple[str, ...]:
        """One id per turn: the item's own, or ``ID#1``, ``ID#2``, ... for several."""
        if len(self.prompts) == 1:
            return (self.id,)
        return tuple(f"{self.id}#{turn}" for turn in range(1, len(self.prompts) + 1))


@dataclass(frozen=True)
class Problem:
    """Data that cannot be used: ``where`` it is, and what is wrong with it."""

    where: str
    message: str

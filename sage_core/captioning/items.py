"""One text that is to be made of one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sage_core.captioning.keys import FileState
from sage_core.options import TextRequest

__all__ = ["Item", "fewer_pixels"]

_FEWER = (1024**2, 512**2, 256**2)
"""Pixels of an image, or of a frame, that are tried where memory is short."""


def fewer_pixels(most: int | None) -> list[int]:
    """Limits to try, one after another, where memory was short with ``most`` pixels (None: any)."""
    if most is None:
        return list(_FEWER)
    return [pixels for pixels in _FEWER if pixels < most] or [most]


@dataclass(frozen=True)
class Item:
    """One text to make of the file ``name``. It can be sent to other processes."""

    name: str
    """A path."""
    prompt: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of this text alone: fields of `sage_core.Options`."""
    key: str | None = None
    """Of its result, see `key_of`."""
    state: FileState | None = None
    """Of the file when the key was made."""
    content: bytes | None = None
    """What is read instead of the file ``name``."""

    @property
    def request(self) -> TextRequest:
        """What `Pipeline.outcomes` takes."""
        files = self.name if self.content is None else self.content
        return TextRequest(files, self.prompt, self.options)

    def check(self) -> None:
        """Refuse a result of a file that has changed since. Raises as `FileState.check`."""
        if self.state is not None:
            self.state.check()

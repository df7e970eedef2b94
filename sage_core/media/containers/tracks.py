"""One track of a container, and the turn that makes its frames stand upright."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Turn:
    """How stored frames are brought upright: mirrored left to right if so, then turned."""

    quarters: int = 0
    """Quarter turns clockwise, 0 to 3."""
    mirrored: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of frames once they are upright."""
        return (height, width) if self.quarters % 2 else (width, height)


UPRIGHT = Turn()


@dataclass(frozen=True, eq=False)
class Stamps:
    """When the frames of a track are shown, in its own units of time."""

    shown: np.ndarray
    """int64 of shape (frames,), increasing: units from the track's origin."""
    keys: np.ndarray
    """int64 of shape (keyframes,), increasing: those of ``shown`` where decoding can start."""
    end: int
    """Units at which the last frame ends."""
    scale: int
    """Units a second."""


@dataclass(frozen=True)
class Track:
    """What the headers say of one track."""

    video: bool
    turn: Turn = UPRIGHT
    closed: bool = False
    """Known: at each keyframe decoding can start anew, and nothing after it is shown before it."""
    stamps: Stamps | None = None
    """When its frames are shown, where the headers say so."""
    edited: bool = False
    """An edit list leaves frames out, or may do so."""
    end: int = 0
    """Where its last byte lies in the file, plus one; 0 if unknown."""

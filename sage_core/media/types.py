"""What an opened input is, and how much of a clip to look at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sage_core.errors import OptionError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Rate:
    """How many frames a model family takes of a clip when nobody says.

    ``fps`` a second of the clip, but at least ``least``, at most ``most`` and no more than there
    are, brought down to a multiple of ``multiple``. They stand at the beginnings of equal parts,
    or, with ``ends``, from the first frame to the last.

    Raises:
        OptionError: a value that makes no sense.
    """

    fps: float
    least: int = 1
    most: int = 2048
    multiple: int = 1
    ends: bool = False

    def __post_init__(self) -> None:
        if not (self.fps > 0 and 1 <= self.least <= self.most and self.multiple >= 1):
            raise OptionError(f"no rate of frames: {self}")

    def count(self, seconds: float, frames: int) -> int:
        """How many of the ``frames`` of ``seconds`` to take, at least 1."""
        most = self.most // self.multiple * self.multiple
        wanted = math.floor(min(max(seconds * self.fps, self.least), most, frames) + 1e-6)
        return max(1, wanted // self.multiple * self.multiple or wanted)


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip are looked at, and how large.

    ``frames`` is how many, spread evenly; ``fps`` is how many a second instead. With neither,
    ``rate`` says: a model family's own rule. All count within [``start``, ``end``) in seconds from
    the clip's beginning. ``max_pixels`` bounds the pixels of a picture or of a frame, which are
    shrunk to it with their shape kept. ``frame_pixels`` bounds frames alone and ``clip_pixels``
    all sampled frames together: a family sets them to what its model can use, so that frames are
    decoded no larger. Pictures ignore everything but ``max_pixels``.

    Raises:
        OptionError: a value that makes no sense, or both ``frames`` and ``fps``.
    """

    frames: int | None = None
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    max_pixels: int | None = None
    frame_pixels: int | None = None
    clip_pixels: int | None = None
    rate: Rate | None = None

    def __post_init__(self) -> None:
        for name in ("frames", "max_pixels", "frame_pixels", "clip_pixels"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and (not whole or value < 1):
                raise OptionError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name in ("fps", "start", "end"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise OptionError(f"{name} must be a number, not {value!r}")
        if self.fps is not None and self.fps <= 0:
            raise OptionError(f"fps must be more than 0, not {self.fps!r}")
        if self.frames is not None and self.fps is not None:
            raise OptionError("frames and fps exclude each other: give one of them")
        if self.start is not None and self.start < 0:
            raise OptionError(f"start must be 0 or more seconds, not {self.start!r}")
        if self.end is not None and self.end <= (self.start or 0):
            raise OptionError(f"end ({self.end!r} s) must come after start ({self.start or 0!r} s)")

    def largest_frame(self, frames: int) -> int | None:
        """The bound on the pixels of one of ``frames`` frames, the least of those that are set."""
        share = None if self.clip_pixels is None else max(1, self.clip_pixels // frames)
        bounds = [b for b in (self.max_pixels, self.frame_pixels, share) if b is not None]
        return min(bounds, default=None)


@dataclass(frozen=True, eq=False)
class Picture:
    """One upright RGB picture."""

    image: Image.Image
    """Mode RGB, EXIF rotation applied, alpha composited on white."""
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size


@dataclass(frozen=True, eq=False)
class Clip:
    """The sampled frames of a video or an animated picture."""

    frames: np.ndarray
    """uint8 of shape (frames, height, width, 3), RGB."""
    timestamps: np.ndarray
    """float64 of shape (frames,): seconds from the clip's beginning."""
    fps: float
    """Frames a second of the source."""
    duration: float
    """Seconds of the whole source, whatever part of it was sampled."""
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames in pixels."""
        return int(self.frames.shape[2]), int(self.frames.shape[1])


def fit(width: int, height: int, max_pixels: int | None) -> tuple[int, int]:
    """The largest size of the same shape that has at most ``max_pixels``; never enlarged."""
    if max_pixels is None or width * height <= max_pixels:
        return width, height
    scale = math.sqrt(max_pixels / (width * height))
    return max(1, int(width * scale)), max(1, int(height * scale))

"""Opened inputs (`Picture`, `Clip`) and which frames of a video are sampled (`Sampling`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sage_core.checks import as_integer, is_number
from sage_core.errors import OptionError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class FrameRate:
    """A model family's default number of sampled frames, by the duration of the video.

    ``fps`` frames a second, within [``min_frames``, ``max_frames``] and no more than the video has,
    rounded down to a multiple of ``multiple_of``. They are taken at the beginnings of equal parts
    (qwen-vl-utils), or with ``endpoint`` from the first frame to the last (Qwen3-VL).

    Raises:
        OptionError: a value is out of range.
    """

    fps: float
    min_frames: int = 1
    max_frames: int = 2048
    multiple_of: int = 1
    endpoint: bool = False

    def __post_init__(self) -> None:
        in_order = 1 <= self.min_frames <= self.max_frames
        if not (self.fps > 0 and in_order and self.multiple_of >= 1):
            raise OptionError(f"invalid frame rate: {self}")

    def count(self, seconds: float, frames: int) -> int:
        """How many of the ``frames`` of ``seconds`` to take, at least 1."""
        most = self.max_frames // self.multiple_of * self.multiple_of
        wanted = math.floor(min(max(seconds * self.fps, self.min_frames), most, frames) + 1e-6)
        return max(1, wanted // self.multiple_of * self.multiple_of or wanted)


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are sampled, and their size.

    ``frames`` is their number, spread evenly; ``fps`` is the number a second instead. With neither,
    ``rate`` applies, the default of a model family. They are taken from [``start``, ``end``), in
    seconds from the beginning. ``max_pixels`` bounds the pixels of an image or a frame: larger ones
    are shrunk with their aspect ratio kept. ``frame_pixels`` bounds frames only and ``clip_pixels``
    all sampled frames together: a family sets them to what its model can use, so that frames are
    decoded no larger. Images use ``max_pixels`` only.

    Raises:
        OptionError: a value is out of range, or both ``frames`` and ``fps`` are given.
    """

    frames: int | None = None
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    max_pixels: int | None = None
    frame_pixels: int | None = None
    clip_pixels: int | None = None
    rate: FrameRate | None = None

    def __post_init__(self) -> None:
        for name in ("frames", "max_pixels", "frame_pixels", "clip_pixels"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, as_integer(name, value, 1))
        for name in ("fps", "start", "end"):
            value = getattr(self, name)
            if value is not None and not is_number(value):
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
        """The smallest of the bounds on the pixels of one of ``frames`` frames, None if unset."""
        share = None if self.clip_pixels is None else max(1, self.clip_pixels // frames)
        bounds = [b for b in (self.max_pixels, self.frame_pixels, share) if b is not None]
        return min(bounds, default=None)


@dataclass(frozen=True, eq=False)
class Picture:
    """One upright RGB image."""

    image: Image.Image
    """Mode RGB, EXIF rotation applied, alpha composited on white."""
    name: str
    note: str = ""
    """What of the file is not in ``image``, in a few words; empty if nothing."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size


@dataclass(frozen=True, eq=False)
class Clip:
    """The sampled frames of a video or an animated image."""

    frames: np.ndarray
    """uint8 of shape (frames, height, width, 3), RGB."""
    timestamps: np.ndarray
    """float64 of shape (frames,): seconds from the beginning of the source."""
    fps: float
    """Average frames per second of the source."""
    duration: float
    """Seconds of the whole source, not only of the sampled part."""
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames in pixels."""
        return int(self.frames.shape[2]), int(self.frames.shape[1])


def fit(width: int, height: int, max_pixels: int | None) -> tuple[int, int]:
    """The largest size of the same aspect ratio with at most ``max_pixels``; never enlarged."""
    if max_pixels is None or width * height <= max_pixels:
        return width, height
    scale = math.sqrt(max_pixels / (width * height))
    return max(1, int(width * scale)), max(1, int(height * scale))

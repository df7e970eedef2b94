"""Which frames of a video are sampled, and which frame sizes are refused."""

from __future__ import annotations

import numpy as np

from sage_core.errors import InputError
from sage_core.media.types import FrameRate, Sampling

DEFAULT_FRAMES = 8
MAX_FRAMES = 2048
"""More sampled frames are refused: no model here takes them, and they would fill the memory."""
MAX_PIXELS = 178_956_970
"""Larger images and frames are refused before decoding (Pillow's own limit)."""
LARGE = 2**26
"""Pixels of an image beyond which it is decoded smaller; no model here looks at more."""
MAX_ASPECT = 200
"""The longest supported ratio of the sides (that of the Qwen-VL processors)."""


def check_size(width: int, height: int, name: str) -> None:
    """Refuse an image or frame by its declared size, before it is decoded.

    Raises:
        InputError: no pixels, more than `MAX_PIXELS`, or an aspect ratio beyond `MAX_ASPECT`.
    """
    if width < 1 or height < 1:
        raise InputError(f"{name}: the image has no pixels ({width}x{height})")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name}: {width}x{height} exceeds {MAX_PIXELS // 1_000_000} megapixels: shrink it"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(f"{name}: aspect ratio exceeds {MAX_ASPECT}:1 ({width}x{height}): crop it")


def choose_frames(
    timestamps: np.ndarray, duration: float, sampling: Sampling, name: str
) -> np.ndarray:
    """Indices of the frames to decode: int64 of shape (chosen,), increasing, never twice.

    ``timestamps`` is float of shape (frames,), seconds from the beginning, increasing. With
    ``frames`` they are spread evenly over the frames within [start, end), first and last
    included, as LLaVA-OneVision samples; with ``fps`` each is the one on screen at start + k / fps;
    with ``rate`` as `FrameRate` defines. A video with fewer frames gives all of them.

    Raises:
        InputError: start is beyond the end, or more than `MAX_FRAMES` frames are asked for.
    """
    start = sampling.start or 0.0
    end = duration if sampling.end is None else min(sampling.end, duration)
    if start >= duration:
        raise InputError(
            f"{name}: start ({start:g} s) is beyond the end of the video ({duration:.2f} s): "
            "choose an earlier start"
        )
    first = int(np.searchsorted(timestamps, start, side="right")) - 1
    if timestamps[max(first, 0)] < start - 1e-6:
        first += 1  # that frame began before start
    last = int(np.searchsorted(timestamps, end, side="left"))
    # No frame begins within a short part of a slow video: take the one on screen.
    first = min(max(first, 0), len(timestamps) - 1)
    if last <= first:
        first = max(0, last - 1)
        last = first + 1
    if sampling.fps is None and sampling.frames is None and sampling.rate is not None:
        return _by_rate(timestamps, first, last, (start, end), sampling.rate)
    if sampling.fps is None:
        wanted = min(sampling.frames or DEFAULT_FRAMES, last - first)
        _check_count(wanted, name)
        return np.linspace(first, last - 1, wanted).astype(np.int64)
    _check_count((end - start) * sampling.fps, name)
    times = start + np.arange(max(1, int(np.ceil((end - start) * sampling.fps)))) / sampling.fps
    return _shown_at(timestamps, times)


def _shown_at(timestamps: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Indices of the frames on screen at ``times``, each once."""
    shown = np.searchsorted(timestamps, times + 1e-6, side="right") - 1
    return np.unique(np.clip(shown, 0, len(timestamps) - 1)).astype(np.int64)


def _by_rate(
    timestamps: np.ndarray, first: int, last: int, part: tuple[float, float], rate: FrameRate
) -> np.ndarray:
    """Frames of [first, last) as ``rate`` defines, within ``part`` in seconds."""
    start, end = part
    count = rate.count(end - start, last - first)
    if not rate.endpoint:
        return _shown_at(timestamps, start + (end - start) * np.arange(count) / count)
    times = np.linspace(timestamps[first], timestamps[last - 1], count)
    nearest = np.interp(times, timestamps[first:last], np.arange(first, last))
    return np.unique(np.round(nearest.round(6))).astype(np.int64)


def _check_count(wanted: float, name: str) -> None:
    if wanted > MAX_FRAMES:
        raise InputError(
            f"{name}: {wanted:.0f} frames exceed the limit of {MAX_FRAMES}: ask for fewer or for "
            "a shorter part"
        )

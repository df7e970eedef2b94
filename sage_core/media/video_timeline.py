"""What both video decoders share: why one gives up, and the timeline of a clip."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

DAMAGED = "the clip is damaged, cut off or of an unknown format: get a whole copy or convert it"
EMPTY = "the clip has no frames: get a whole copy"
NO_PICTURES = "there are no pictures in it, only sound or data: give a picture or a video"

LATEST = 1e9
"""Seconds; a later time is no time but a mark for "none"."""


class UnreadableError(Exception):
    """A decoder gave up; ``args[0]`` says why and what to do. ``final``: another would not help."""

    def __init__(self, message: str, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


def timeline(times: np.ndarray, end: float, fps: float) -> tuple[np.ndarray, float, float]:
    """Times from 0, the duration and the rate, with what broken headers leave out filled in.

    ``times`` is float64 of shape (frames,), seconds; ``end`` when the last frame ends.
    """
    if not np.isfinite(fps) or fps <= 0:
        fps = 25.0
    known = np.all(np.isfinite(times)) and np.all(np.abs(times) < LATEST)
    if not known or np.any(np.diff(times) < 0):
        times = np.arange(len(times)) / fps
        end = len(times) / fps
    first = float(times[0])
    last = float(times[-1])
    if not last <= end < LATEST:
        end = last
    return times - first, max(end - first, last - first + 1 / fps), float(fps)


def stacked(frames: Iterable[np.ndarray], count: int) -> np.ndarray:
    """``count`` frames, uint8 (height, width, 3) each, in one array without a second copy of all.

    Raises:
        UnreadableError: there are fewer, or not of one size.
    """
    whole: np.ndarray | None = None
    found = 0
    for frame in frames:
        if whole is None:
            whole = np.empty((count, *frame.shape), np.uint8)
        if frame.shape != whole.shape[1:]:
            raise UnreadableError(DAMAGED, final=True)
        whole[found] = frame
        found += 1
    if whole is None or found < count:
        raise UnreadableError(DAMAGED, final=True)
    return whole

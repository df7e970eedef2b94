"""Frame times and keyframes of a video stream, from its packets."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

CORRUPT = (
    "the video is corrupt, truncated or in an unsupported format: get a complete copy or convert it"
)
EMPTY = "the video has no frames: get a complete copy"

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
MATROSKA = "matroska,webm"
"""FFmpeg's names of the containers that can seek to a keyframe by its time."""
NO_TIMES = ("avi",)
"""Containers that store no frame times: the frame rate is constant and frames are numbered."""
JOINED = ("mpegts", "mpeg")
"""Containers of which files may be joined end to end. Times then restart within the file."""
WITHOUT_REORDERING = ("vp8", "vp9", "mjpeg")
"""Codecs that present frames in decoding order, so that each keyframe is a safe start."""

LATEST = 1e9
"""Seconds; a later time means "no time"."""
BACK, AHEAD = 0.1, 10.0
"""Seconds by which times restart, as in FFmpeg's tool: less is disorder, or a pause."""
DELAY = 3
"""Packets by which FFmpeg reports an interruption too early."""


class UnreadableError(Exception):
    """A decoder cannot read the video; ``args[0]`` says why and what to do."""


class Part(NamedTuple):
    """A stretch of a stream in which times run on."""

    last: int
    """Largest presentation time in it, as stored."""
    shift: int
    """What is added to its stored times so that they continue those of the part before."""


class Times(NamedTuple):
    """When the frames of a stream are presented, in its time base."""

    pts: np.ndarray
    """int64 of shape (frames,), increasing: presentation times, or numbers if ``numbered``."""
    keyframes: np.ndarray
    """int64 of shape (keyframes,), increasing: those of ``pts`` where decoding can start."""
    shown: np.ndarray
    """int64 of shape (frames,), increasing: ``pts``, or the places in time of numbered frames."""
    end: int
    """End of the last frame, on the scale of ``shown``."""
    numbered: bool
    parts: tuple[Part, ...] = ()
    """More than one if times restart, else empty."""


class Packets:
    """Times and keyframes of a stream, collected packet by packet."""

    def __init__(self, container: Any, stream: Any) -> None:
        import av

        self.pts: list[int | None] = []
        """In decoding order, without packets that an edit list discards."""
        self._dts: list[int | None] = []
        self._count = 0
        """With discarded packets."""
        self._name = container.format.name
        self._stream = stream
        self._codec = stream.codec_context.codec.canonical_name
        self._keys: list[int] = []
        """Positions of keyframes in ``pts``."""
        self._ends: list[int] = []
        """Decoding time at which each packet ends, of those with one."""
        self._starts: list[tuple[int, int]] = [(0, 0)]
        """Position in ``pts`` and shift of each part."""
        self._interrupted: list[int] = []
        """Positions of packets next to a gap in the file."""
        self._end = 0
        self._resets = True
        """Every keyframe so far resets the decoder."""
        self._idr: Any = None
        if self._name == MP4 and self._codec == "h264":
            # Some H.264 keyframes are only recovery points. The filter keeps IDR slices.
            self._idr = av.BitStreamFilterContext("filter_units=pass_types=5", stream)

    def add(self, packet: Any) -> None:
        """Record ``packet``, whose data may be gone afterwards."""
        import av

        if packet.is_corrupt:
            if self._name not in JOINED:
                raise UnreadableError(CORRUPT)
            self._interrupted.append(len(self.pts))
        if packet.size == 0:
            return
        self._count += 1
        if packet.is_discard:
            return
        shift = self._shift_of(packet)
        if packet.pts is not None:
            self._end = max(self._end, packet.pts + (packet.duration or 0) + shift)
        if packet.is_keyframe:
            self._keys.append(len(self.pts))
        self.pts.append(None if packet.pts is None else packet.pts + shift)
        self._dts.append(packet.dts)
        if packet.is_keyframe and self._idr is not None and self._resets:
            self._resets = False
            with suppress(av.FFmpegError):
                self._resets = bool(self._idr.filter(packet))

    def _shift_of(self, packet: Any) -> int:
        """The shift of ``packet``'s part, which begins with it if times restart."""
        shift = self._starts[-1][1]
        if self._name not in JOINED or packet.dts is None:
            return shift
        if self._ends:
            step = (packet.dts + shift - self._ends[-1]) * self._stream.time_base
            if not -BACK <= step <= AHEAD:
                shift = self._ends[-1] - packet.dts
                self._starts.append((len(self.pts), shift))
        self._ends.append(packet.dts + shift + (packet.duration or 0))
        return shift

    def times(self) -> Times:
        """The times of all frames.

        Raises:
            UnreadableError: packets are missing, other than where times restart.
        """
        for at in self._interrupted:
            if not any(at <= start <= at + DELAY for start, _ in self._starts):
                raise UnreadableError(CORRUPT)
        if self._name in NO_TIMES or None in self.pts:
            numbers = np.arange(len(self.pts))
            shown, end = self._places()
            return Times(numbers, numbers[:0], shown, end, numbered=True)
        order = np.array(self.pts, dtype=np.int64)
        keyframes = np.sort(order[self._keys or [0]])
        bounds = [start for start, _ in self._starts] + [len(order)]
        parts = [self._decodable(order, begin, end) for begin, end in pairwise(bounds)]
        pts = np.unique(np.concatenate(parts))
        joined = tuple(
            Part(int(order[begin:end].max()) - shift, shift)
            for (begin, shift), end in zip(self._starts, bounds[1:], strict=True)
        )
        return Times(pts, keyframes, pts, self._end, False, joined if len(joined) > 1 else ())

    def _places(self) -> tuple[np.ndarray, int]:
        """Places of numbered frames on a clock of one tick per frame, and the end of the last.

        Empty packets of an AVI file repeat a frame. FFmpeg leaves them out, but counts them in the
        decoding times, and the header in the duration.
        """
        count = len(self.pts)
        if count and self._name in NO_TIMES and None not in self._dts:
            places = np.array(self._dts, dtype=np.int64)
            if np.all(np.diff(places) > 0):
                return places, max(int(places[-1]) + 1, self._stream.duration or 0)
        return np.arange(count), count

    def _decodable(self, order: np.ndarray, begin: int, end: int) -> np.ndarray:
        """Of the frames ``begin`` to ``end``, those not before their first keyframe."""
        found = order[begin:end]
        keys = [key for key in self._keys if begin <= key < end]
        if not keys or self._count != len(order):
            return found
        first: np.ndarray = found[found >= order[keys].min()]
        return first

    def seek_by_number(self) -> bool:
        """Whether decoding by frame number finds the right frames: see `VideoIndex`."""
        if not self._keys or None in self.pts:
            return False
        if self._name == MATROSKA:
            return self._codec in WITHOUT_REORDERING
        # An edit list discards packets or repeats them; the header counts each frame once.
        complete = self._count == len(self.pts) == self._stream.frames
        if self._name != MP4 or not complete or not self._resets:
            return False
        order = np.array(self.pts, dtype=np.int64)
        earliest_from_here = np.minimum.accumulate(order[::-1])[::-1]
        return bool(np.all(earliest_from_here[self._keys] >= order[self._keys]))


def timeline(times: np.ndarray, end: float, fps: float) -> tuple[np.ndarray, float, float]:
    """Times from 0, the duration and the frame rate, with what broken headers lack filled in.

    ``times`` is float64 of shape (frames,), increasing, in seconds; the last frame ends at ``end``.
    """
    if not np.isfinite(fps) or fps <= 0:
        fps = 25.0
    if np.any(np.abs(times) >= LATEST):
        times = np.arange(len(times)) / fps
        end = len(times) / fps
    first = float(times[0])
    last = float(times[-1])
    if not last <= end < LATEST:
        end = last
    return times - first, max(end - first, last - first + 1 / fps), float(fps)

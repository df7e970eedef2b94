"""Video frames by PyAV, found by their presentation time, so that seeking cannot miss them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from sage_core.media.types import fit
from sage_core.media.video_index import (
    Orientation,
    VideoIndex,
    decoded_frames,
    ffmpeg_errors,
    open_video,
    stack_frames,
    video_stream,
)
from sage_core.media.video_packets import BACK, MATROSKA, MP4

ROTATIONS: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("transpose", "clock"),),
    (("hflip", ""), ("vflip", "")),
    (("transpose", "cclock"),),
)
"""FFmpeg's filters for none to three quarter turns clockwise."""


class MissedFrameError(Exception):
    """No frame has the presentation time that the index gives."""


class PassedOver:
    """Decodes a video from its beginning; each request goes on where the last one ended."""

    def __init__(self, source: Path | bytes, index: VideoIndex) -> None:
        self._container = open_video(source)
        decoded = decoded_frames(self._container, _threaded(self._container))
        self._named = enumerate(decoded) if index.numbered else _by_time(decoded, index)
        self.reached = -math.inf
        """The latest frame that was decoded, by its time in the index or its number."""

    def frames(self, wanted: list[int], convert: _Converter) -> Iterator[np.ndarray]:
        """Those named ``wanted``, increasing and later than ``reached``."""
        return _in_order(self._counted(), wanted, convert)

    def _counted(self) -> Iterator[tuple[int | None, Any]]:
        for name, frame in self._named:
            if name is not None:
                self.reached = max(self.reached, name)
            yield name, frame

    def close(self) -> None:
        self._container.close()


class KeptVideo:
    """What was read of the latest file, for further parts of it: its index, and open decoders.

    A file is known by its inode, length and time of change; bytes in memory are not kept.
    """

    DECODERS = 2
    """Overlapping parts that follow one another need two, each of which passes over every other."""

    def __init__(self) -> None:
        self._file: tuple[int, ...] | None = None
        self._index: VideoIndex | None = None
        self._decoders: list[PassedOver] = []

    def index(
        self, source: Path | bytes, read: Callable[[], VideoIndex], every_packet: bool
    ) -> VideoIndex:
        """The kept index of ``source``, or the one that ``read`` returns."""
        file = _identity(source)
        known = self._index if file is not None and file == self._file else None
        if known is None or (every_packet and known.estimated):
            self.clear()
            self._index, self._file = read(), file
            return self._index
        return known

    def decoder(self, source: Path | bytes, index: VideoIndex, first: int) -> PassedOver:
        """A decoder that has not passed over the frame ``first``: the one that is nearest to it."""
        usable = [one for one in self._decoders if one.reached < first]
        if index is self._index and usable:
            chosen = max(usable, key=lambda one: one.reached)
            self._decoders.remove(chosen)
        else:
            chosen = PassedOver(source, index)
        return chosen

    def put_back(self, decoder: PassedOver, index: VideoIndex) -> None:
        """Keep ``decoder`` for the next request, if it is one of the kept video."""
        self._decoders.append(decoder)
        least = 0 if index is not self._index or self._file is None else self.DECODERS
        while len(self._decoders) > least:
            self._decoders.pop(0).close()

    def keep_only(self, source: Path | bytes) -> None:
        """Forget what was read of another file than ``source``: its memory is needed."""
        if self._file is not None and _identity(source) != self._file:
            self.clear()

    def clear(self) -> None:
        """Close the decoders and forget the file."""
        while self._decoders:
            self._decoders.pop().close()
        self._file = self._index = None


def _identity(source: Path | bytes) -> tuple[int, ...] | None:
    if isinstance(source, bytes):
        return None
    try:
        found = source.stat()
    except OSError:  # opening it says so
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def decode(
    source: Path | bytes,
    index: VideoIndex,
    chosen: np.ndarray,
    max_pixels: int | None,
    kept: KeptVideo | None = None,
) -> np.ndarray:
    """The frames ``chosen`` of ``index``, upright: uint8 of shape (chosen, height, width, 3).

    ``chosen`` is int64 of shape (chosen,), increasing. Frames have at most ``max_pixels`` pixels.

    Raises:
        UnreadableError: the video is corrupt.
        MissedFrameError: the times of an ``estimated`` index are wrong.
        ImportError: PyAV is not installed.
    """
    return stack_frames(each_frame(source, index, chosen, max_pixels, kept), len(chosen))


def each_frame(
    source: Path | bytes,
    index: VideoIndex,
    chosen: np.ndarray,
    max_pixels: int | None,
    kept: KeptVideo | None = None,
) -> Iterator[np.ndarray]:
    """The frames of `decode` one by one, uint8 of shape (height, width, 3) each."""
    wanted = (chosen if index.numbered else index.pts[chosen]).tolist()
    convert = _Converter(index.orientation, fit(*index.size, max_pixels))
    found = 0
    with ffmpeg_errors():
        if not index.numbered and index.container in (MP4, MATROSKA):
            try:
                with open_video(source) as container:
                    follows = np.diff(chosen, prepend=-1) == 1
                    for frame in _by_seeking(container, index.keyframes, wanted, follows, convert):
                        yield frame
                        found += 1
                    return
            except MissedFrameError:
                if index.estimated:
                    raise
        # From the beginning: slower, but misses no frame.
        kept = kept or KeptVideo()
        decoder = kept.decoder(source, index, wanted[found])
        try:
            yield from decoder.frames(wanted[found:], convert)
        except BaseException:
            decoder.close()
            raise
        kept.put_back(decoder, index)


def _threaded(container: Any) -> Any:
    stream = video_stream(container)
    stream.thread_type = "AUTO"
    return stream


def _by_seeking(
    container: Any,
    keyframes: np.ndarray,
    wanted: list[int],
    follows: np.ndarray,
    convert: _Converter,
) -> Iterator[np.ndarray]:
    """Seek to the last keyframe before each wanted time, unless decoding is already past it.

    ``follows`` is bool of shape (wanted,): whether a frame is the next one after that before it.
    """
    stream = _threaded(container)
    frames = decoded_frames(container, stream)
    reached = int(keyframes[0])
    for time, next_one in zip(wanted, follows, strict=True):
        last = max(0, int(np.searchsorted(keyframes, time, side="right")) - 1)
        if keyframes[last] > reached and not next_one:
            frames = _sought(container, stream, keyframes[last])
        frame = _first_from(frames, time)
        if last > 0 and (frame is None or frame.pts != time):
            # The keyframe of an open GOP may be presented later than an estimated index says.
            frames = _sought(container, stream, keyframes[last - 1])
            frame = _first_from(frames, time)
        if frame is None or frame.pts != time:
            raise MissedFrameError
        reached = time
        yield convert(frame)


def _sought(container: Any, stream: Any, pts: int) -> Iterator[Any]:
    container.seek(int(pts), stream=stream)
    return decoded_frames(container, stream)


def _first_from(frames: Iterator[Any], pts: int) -> Any:
    """The first frame at ``pts`` or later, None if there is none."""
    return next((frame for frame in frames if frame.pts is not None and frame.pts >= pts), None)


def _by_time(frames: Iterable[Any], index: VideoIndex) -> Iterator[tuple[int | None, Any]]:
    """Each frame with its presentation time in ``index``, which runs on where the file's restarts.

    A part of the file ends where times fall, or exceed the last of that part.
    """
    if not index.parts:
        yield from ((frame.pts, frame) for frame in frames)
        return
    part, latest = 0, None
    for frame in frames:
        if frame.pts is None:
            yield None, frame
            continue
        falls = latest is not None and (latest - frame.pts) * frame.time_base > BACK
        if (falls or frame.pts > index.parts[part].last) and part + 1 < len(index.parts):
            part += 1
        latest = frame.pts
        yield frame.pts + index.parts[part].shift, frame


def _in_order(
    named: Iterable[tuple[int | None, Any]], wanted: list[int], convert: _Converter
) -> Iterator[np.ndarray]:
    """The frames named ``wanted``, out of all frames in the order of decoding."""
    held: dict[int, np.ndarray] = {}
    missing = set(wanted)
    left = deque(wanted)
    for name, frame in named:
        if name in missing:
            missing.remove(name)
            held[name] = convert(frame)
            while left and left[0] in held:
                yield held.pop(left.popleft())
            if not missing:
                return
    yield from (held[name] for name in left if name in held)


class _Converter:
    """Scales decoded frames and makes them RGB and upright: uint8 of shape (height, width, 3).

    By a filter graph like decord's, so that both decoders give the same pixels. PyAV's
    ``to_ndarray`` places chroma samples differently and splits interlaced frames.
    """

    def __init__(self, orientation: Orientation, size: tuple[int, int]) -> None:
        self._orientation = orientation
        self._size = size
        """Width and height of all frames, also after a change within the video."""
        self._graphs: dict[tuple[int, int, str], Any] = {}
        """By width, height and pixel format of the input."""

    def __call__(self, frame: Any) -> np.ndarray:
        kind = (frame.width, frame.height, frame.format.name)
        if kind not in self._graphs:
            self._graphs[kind] = self._graph(frame)
        graph = self._graphs[kind]
        graph.push(frame)
        return np.ascontiguousarray(graph.pull().to_ndarray())

    def _graph(self, frame: Any) -> Any:
        import av

        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base or Fraction(1, 1000),
        )
        width, height = self._size
        steps = [
            *([("hflip", "")] if self._orientation.flipped else []),
            *ROTATIONS[self._orientation.quarter_turns],
            ("scale", f"w={width}:h={height}:flags=bilinear"),
            ("format", "rgb24"),
            ("buffersink", ""),
        ]
        nodes = [
            graph.add(name, options) if options else graph.add(name) for name, options in steps
        ]
        graph.link_nodes(source, *nodes).configure()
        return graph

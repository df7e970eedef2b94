"""Video frames by PyAV, found by their presentation time, so that seeking cannot miss them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from sage_core.media.types import fit
from sage_core.media.video_index import (
    Orientation,
    VideoIndex,
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


def decode(
    source: Path | bytes, index: VideoIndex, chosen: np.ndarray, max_pixels: int | None
) -> np.ndarray:
    """The frames ``chosen`` of ``index``, upright: uint8 of shape (chosen, height, width, 3).

    ``chosen`` is int64 of shape (chosen,), increasing. Frames have at most ``max_pixels`` pixels.

    Raises:
        UnreadableError: the video is corrupt.
        MissedFrameError: the times of an ``estimated`` index are wrong.
        ImportError: PyAV is not installed.
    """
    wanted = (chosen if index.numbered else index.pts[chosen]).tolist()
    convert = _Converter(index.orientation, fit(*index.size, max_pixels))
    with ffmpeg_errors():
        if not index.numbered and index.container in (MP4, MATROSKA):
            try:
                with open_video(source) as container:
                    frames = _by_seeking(container, index.keyframes, wanted, convert)
                    return stack_frames(frames, len(wanted))
            except MissedFrameError:
                if index.estimated:
                    raise
        with open_video(source) as container:  # from the beginning: slower, but misses no frame
            decoded = container.decode(_threaded(container))
            named = enumerate(decoded) if index.numbered else _by_time(decoded, index)
            return stack_frames(_in_order(named, wanted, convert), len(wanted))


def _threaded(container: Any) -> Any:
    stream = video_stream(container)
    stream.thread_type = "AUTO"
    return stream


def _by_seeking(
    container: Any, keyframes: np.ndarray, wanted: list[int], convert: _Converter
) -> Iterator[np.ndarray]:
    """Seek to the last keyframe before each wanted time, unless decoding is already past it."""
    stream = _threaded(container)
    frames = container.decode(stream)
    reached = int(keyframes[0])
    for time in wanted:
        last = max(0, int(np.searchsorted(keyframes, time, side="right")) - 1)
        if keyframes[last] > reached:
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
    return iter(container.decode(stream))


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
) -> list[np.ndarray]:
    """The frames named ``wanted``, out of all frames in the order of decoding."""
    found: dict[int, np.ndarray] = {}
    missing = set(wanted)
    for name, frame in named:
        if name in missing:
            missing.remove(name)
            found[name] = convert(frame)
            if not missing:
                break
    return [found[name] for name in wanted if name in found]


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

"""Clips by PyAV: frames are found by their time, so that no jump can miss them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from sage_core.media.containers.probe import Facts
from sage_core.media.containers.tracks import Turn
from sage_core.media.frame_sampling import check_shape, choose_frames
from sage_core.media.types import Clip, Sampling, fit
from sage_core.media.video_timeline import (
    DAMAGED,
    EMPTY,
    NO_PICTURES,
    UnreadableError,
    stacked,
    timeline,
)

JUMPS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
"""FFmpeg's names of the containers that have an index of keyframes and times to trust."""
COUNTED = ("avi",)
"""Those whose frames have no times of their own: the clock is steady and frames are counted."""

TURNS: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("transpose", "clock"),),
    (("hflip", ""), ("vflip", "")),
    (("transpose", "cclock"),),
)
"""FFmpeg's filters for none to three quarter turns clockwise."""


@dataclass(frozen=True, eq=False)
class _Index:
    """When the frames of a stream are shown, in its units."""

    shown: np.ndarray
    """int64 of shape (frames,), increasing."""
    keys: np.ndarray
    """int64 of shape (keyframes,), increasing: those of ``shown`` where decoding can start."""
    end: int
    counted: bool = False
    """The times are made up: frames are counted instead of told by them."""


class _MissedError(Exception):
    """A jump led past the frame that was wanted."""


def read(source: Path | bytes, facts: Facts, sampling: Sampling, name: str) -> Clip:
    """Decode the sampled frames.

    Raises:
        UnreadableError: PyAV cannot.
        InputError: absurdly large, or the sampling lies outside.
        ImportError: PyAV is not installed.
    """
    import av

    opened = io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())
    try:
        with _open(av, opened) as container:
            stream = _pictures(container)
            check_shape(stream.width or 1, stream.height or 1, name)
            rate = float(stream.average_rate or 0)
            index = _from_headers(stream, facts) or _from_packets(container, stream)
            unit = (1 / rate if rate > 0 else 0.04) if index.counted else float(stream.time_base)
            turn = facts.tracks[stream.index].turn if stream.index < len(facts.tracks) else None
        times, duration, fps = timeline(index.shown * unit, index.end * unit, rate)
        chosen = choose_frames(times, duration, sampling, name)
        upright = _Upright(av, turn, sampling.largest_frame(len(chosen)))
        frames = _frames(av, opened, index, chosen, upright)
    except (av.FFmpegError, ValueError) as error:  # PyAV's own ValueError: a frame without data
        raise UnreadableError(DAMAGED, final=True) from error
    return Clip(frames, times[chosen], fps, duration, name)


def _open(av: Any, opened: io.BytesIO | str) -> Any:
    if isinstance(opened, io.BytesIO):
        opened.seek(0)
    return av.open(opened, "r", metadata_errors="replace")


def _pictures(container: Any) -> Any:
    """The stream to look at: no cover, and the one that FFmpeg thinks best if there are several."""
    streams = [s for s in container.streams.video if "attached_pic" not in str(s.disposition)]
    if not streams:
        raise UnreadableError(NO_PICTURES, final=True)
    best = container.streams.best("video")
    stream = next((s for s in streams if best is not None and s.index == best.index), streams[0])
    if stream.codec_context is None:
        raise UnreadableError("its codec is not known here: convert it to H.264", final=True)
    stream.thread_type = "AUTO"
    return stream


def _from_headers(stream: Any, facts: Facts) -> _Index | None:
    """From the sample tables of an MP4, so that a long file need not be passed over."""
    track = facts.tracks[stream.index] if stream.index < len(facts.tracks) else None
    stamps = track.stamps if track is not None else None
    if stamps is None or stream.time_base != Fraction(1, stamps.scale):
        return None
    return _Index(stamps.shown, stamps.keys, stamps.end)


def _from_packets(container: Any, stream: Any) -> _Index:
    """From every packet of the file, of which none is decoded or kept."""
    shown: list[int] = []
    keys: list[int] = []
    end = packets = left_out = 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise UnreadableError(DAMAGED, final=True)
        if packet.size == 0:  # the end
            continue
        packets += 1
        if packet.is_discard:  # an edit list leaves it out
            left_out += 1
        elif packet.pts is not None:
            shown.append(packet.pts)
            end = max(end, packet.pts + (packet.duration or 0))
            if packet.is_keyframe:
                keys.append(packet.pts)
    if packets == left_out:
        raise UnreadableError(EMPTY, final=True)
    if container.format.name in COUNTED or len(shown) < packets - left_out:
        count = np.arange(packets - left_out)
        return _Index(count, count[:0], len(count), counted=True)
    starts = np.sort(np.asarray(keys or shown[:1], dtype=np.int64))
    times = np.unique(np.asarray(shown, dtype=np.int64))
    if not left_out:  # before the first keyframe nothing can be decoded: a recording that cut in
        times = times[times >= starts[0]]
    return _Index(times, starts, end)


def _frames(
    av: Any, opened: io.BytesIO | str, index: _Index, chosen: np.ndarray, upright: _Upright
) -> np.ndarray:
    """The frames ``chosen`` of ``index``: uint8 of shape (chosen, height, width, 3), upright."""
    wanted = (chosen if index.counted else index.shown[chosen]).tolist()
    with _open(av, opened) as container:
        stream = _pictures(container)
        if not index.counted and container.format.name in JUMPS:
            with suppress(_MissedError):  # then the slow way, which nothing escapes
                frames = _by_jumps(container, stream, index.keys, wanted, upright)
                return stacked(frames, len(wanted))
    with _open(av, opened) as container:
        decoded = container.decode(_pictures(container))
        named = enumerate(decoded) if index.counted else ((f.pts, f) for f in decoded)
        return stacked(_in_order(named, wanted, upright), len(wanted))


def _by_jumps(
    container: Any, stream: Any, keys: np.ndarray, wanted: list[int], upright: _Upright
) -> Iterator[np.ndarray]:
    """Jump to the last keyframe before each wanted time, unless decoding has passed it already."""
    frames = container.decode(stream)
    reached = int(keys[0])
    for time in wanted:
        key = int(keys[max(0, int(np.searchsorted(keys, time, side="right")) - 1)])
        if key > reached:
            container.seek(key, stream=stream)
            frames = container.decode(stream)
        later = (frame for frame in frames if frame.pts is not None and frame.pts >= time)
        frame = next(later, None)
        if frame is None or frame.pts != time:
            raise _MissedError
        reached = time
        yield upright(frame)


def _in_order(
    named: Iterable[tuple[int | None, Any]], wanted: list[int], upright: _Upright
) -> list[np.ndarray]:
    found: dict[int, np.ndarray] = {}
    missing = set(wanted)
    for name, frame in named:
        if name in missing:
            missing.remove(name)
            found[name] = upright(frame)
            if not missing:
                break
    return [found[name] for name in wanted if name in found]


class _Upright:
    """Makes decoded frames small, RGB and upright: uint8 of shape (height, width, 3).

    By a filter graph like decord's own, so that both decoders give the same pixels: PyAV's
    ``to_ndarray`` asks FFmpeg's scaler for another placement of the colours and takes interlaced
    frames apart.
    """

    def __init__(self, av: Any, turn: Turn | None, most: int | None) -> None:
        self._av = av
        self._turn = turn
        self._most = most
        self._size: tuple[int, int] | None = None
        self._graphs: dict[tuple[int, int, str], Any] = {}

    def __call__(self, frame: Any) -> np.ndarray:
        turn = self._turn
        if turn is None:
            turn = Turn(round(-getattr(frame, "rotation", 0) / 90) % 4)
        if self._size is None:  # frames after a change of size follow the first
            self._size = fit(*turn.size(frame.width, frame.height), self._most)
        kind = (frame.width, frame.height, frame.format.name)
        if kind not in self._graphs:
            self._graphs[kind] = self._graph(frame, turn, *self._size)
        graph = self._graphs[kind]
        graph.push(frame)
        return np.ascontiguousarray(graph.pull().to_ndarray())

    def _graph(self, frame: Any, turn: Turn, width: int, height: int) -> Any:
        graph = self._av.filter.Graph()
        source = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base or Fraction(1, 1000),
        )
        steps = [
            *([("hflip", "")] if turn.mirrored else []),
            *TURNS[turn.quarters],
            ("scale", f"w={width}:h={height}:flags=bilinear"),
            ("format", "rgb24"),
            ("buffersink", ""),
        ]
        nodes = [
            graph.add(name, options) if options else graph.add(name) for name, options in steps
        ]
        graph.link_nodes(source, *nodes).configure()
        return graph

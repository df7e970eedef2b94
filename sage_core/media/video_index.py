"""The index of a video, by PyAV: frame times, keyframes, orientation."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sage_core.errors import InputError
from sage_core.media.frame_sampling import check_size

CORRUPT = (
    "the video is corrupt, truncated or in an unsupported format: get a complete copy or convert it"
)
EMPTY = "the video has no frames: get a complete copy"
NO_VIDEO = "no video stream, only audio or data: give an image or a video"

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
MATROSKA = "matroska,webm"
"""FFmpeg's names of the containers that can seek to a keyframe by its time."""
NO_TIMES = ("avi",)
"""Containers that store no frame times: the frame rate is constant and frames are numbered."""
WITHOUT_REORDERING = ("vp8", "vp9", "mjpeg")
"""Codecs that present frames in decoding order, so that each keyframe is a safe start."""

LARGE_FILE = 256 * 2**20
"""Bytes. Of a larger MP4 only the sample table is read, and not every packet."""
LATEST = 1e9
"""Seconds; a later time means "no time"."""


class UnreadableError(Exception):
    """A decoder cannot read the video; ``args[0]`` says why and what to do."""


@dataclass(frozen=True)
class Orientation:
    """How decoded frames are made upright: flipped left to right if so, then rotated."""

    quarter_turns: int = 0
    """Quarter turns clockwise, 0 to 3."""
    flipped: bool = False

    @classmethod
    def of_frame(cls, frame: Any) -> Orientation:
        """From a decoded frame's display matrix, which FFmpeg takes from the container.

        The matrix maps (x, y) to (a x + c y, b x + d y), with y pointing down.
        """
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls()
        a, b, _, c, d = (int(n) for n in np.frombuffer(matrix, np.int32, 5))
        flipped = a * d - b * c < 0
        if flipped:
            a, b = -a, -b
        if abs(a) >= abs(b):
            return cls(0 if a >= 0 else 2, flipped)
        return cls(1 if b > 0 else 3, flipped)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a frame once it is upright."""
        return (height, width) if self.quarter_turns % 2 else (width, height)


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The frames of a video stream and what decoders need to know of the file."""

    pts: np.ndarray
    """int64 of shape (frames,), increasing: presentation times in the stream's time base, or frame
    numbers if ``numbered``."""
    keyframes: np.ndarray
    """int64 of shape (keyframes,), increasing: those of ``pts`` where decoding can start."""
    timestamps: np.ndarray
    """float64 of shape (frames,): seconds from the first frame."""
    duration: float
    """Seconds."""
    fps: float
    size: tuple[int, int]
    """Width and height of the first frame, upright."""
    orientation: Orientation
    container: str
    """FFmpeg's name of the format."""
    file_size: int
    """Bytes."""
    numbered: bool = False
    seek_by_number: bool = False
    """True if seeking by frame number finds the right frames: there is one video stream, no edit
    list leaves frames out, and all GOPs are closed (decoding can start anew at every keyframe, and
    nothing after it is presented before it)."""
    estimated: bool = False
    """``pts`` come from an MP4's sample table. They may be wrong if the frame rate varies."""


def read_index(source: Path | bytes, name: str, every_packet: bool = False) -> VideoIndex:
    """Read a video's index: all packets are demuxed, but only the first frame is decoded.

    For an MP4 of more than `LARGE_FILE` bytes the sample table is used instead of the packets where
    it suffices, unless ``every_packet``.

    Raises:
        UnreadableError: corrupt, without a video stream or frames, or PyAV lacks the codec.
        InputError: truncated, or of a size that `check_size` refuses.
        ImportError: PyAV is not installed.
    """
    with ffmpeg_errors(), open_video(source) as container:
        stream = video_stream(container)
        check_size(stream.width or 1, stream.height or 1, name)
        _check_complete(container, stream, name)
        large = container.size > LARGE_FILE and not every_packet
        table = _from_sample_table(container, stream) if large else None
        first = None
        packets = _Packets(container, stream)
        for packet in container.demux(stream):
            if first is None:
                first = _decoded(stream, packet)
            elif table is not None:
                break
            packets.add(packet)
        if not packets.pts:
            raise UnreadableError(EMPTY)
        if first is None:
            raise UnreadableError(CORRUPT)
        pts, keyframes, end, numbered = table or packets.times()
        rate = float(stream.average_rate or 0)
        unit = (1 / rate if rate > 0 else 0.04) if numbered else float(stream.time_base)
        timestamps, duration, fps = timeline(pts * unit, end * unit, rate)
        orientation = Orientation.of_frame(first)
        return VideoIndex(
            pts,
            keyframes,
            timestamps,
            duration,
            fps,
            orientation.size(first.width, first.height),
            orientation,
            container.format.name,
            container.size,
            numbered,
            table is None and packets.seek_by_number(),
            estimated=table is not None,
        )


def open_video(source: Path | bytes) -> Any:
    """PyAV's container of a file or its bytes."""
    import av

    return av.open(ffmpeg_source(source), "r", metadata_errors="replace")


def ffmpeg_source(source: Path | bytes) -> Any:
    """A stream of bytes, or an absolute path, since FFmpeg takes "a:b.mp4" for a protocol."""
    return io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())


def video_stream(container: Any) -> Any:
    """The video stream that FFmpeg ranks best, without cover images."""
    streams = _video_streams(container)
    if not streams:
        raise UnreadableError(NO_VIDEO)
    best = container.streams.best("video")
    stream = next((s for s in streams if best is not None and s.index == best.index), streams[0])
    if stream.codec_context is None:
        raise UnreadableError("unsupported video codec: convert it to H.264")
    return stream


def _video_streams(container: Any) -> list[Any]:
    from av.stream import Disposition

    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


@contextmanager
def ffmpeg_errors() -> Iterator[None]:
    """Turn FFmpeg's errors, and PyAV's for a frame without data, into `UnreadableError`."""
    import av

    try:
        yield
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableError(CORRUPT) from error


def _check_complete(container: Any, stream: Any, name: str) -> None:
    """Refuse an MP4 whose sample table points beyond the end of the file."""
    if container.format.name != MP4:
        return
    end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end > container.size:
        raise truncated(name, end - container.size)


def truncated(name: str, missing: int) -> InputError:
    return InputError(
        f"{name}: the video is truncated, {missing:,} bytes are missing: get a complete copy"
    )


def _decoded(stream: Any, packet: Any) -> Any:
    """The frame that ``packet`` completes, or None."""
    import av

    with suppress(av.FFmpegError):  # a stream that was cut may begin between keyframes
        return next(iter(stream.decode(packet)), None)
    return None


_Times = tuple[np.ndarray, np.ndarray, int, bool]
"""``pts``, ``keyframes``, the end of the last frame, and ``numbered``."""


def _from_sample_table(container: Any, stream: Any) -> _Times | None:
    """Frame times from an MP4's sample table, which holds decoding times; None if they differ.

    Without B-frames, or at a constant frame rate, presentation times are the decoding times
    shifted by a constant.
    """
    entries = list(stream.index_entries)
    complete = len(entries) == stream.frames and not any(entry.is_discard for entry in entries)
    if container.format.name != MP4 or not entries or not complete or stream.start_time is None:
        return None
    dts = np.array([entry.timestamp for entry in entries], dtype=np.int64)
    steps = np.diff(dts)
    constant = not len(steps) or steps.min() == steps.max()
    if np.any(steps < 1) or (stream.codec_context.has_b_frames and not constant):
        return None
    pts = dts - dts[0] + stream.start_time
    keyframes = pts[[entry.is_keyframe for entry in entries]]
    end = int(pts[-1]) + (int(steps[-1]) if len(steps) else 0)
    return (pts, keyframes, end, False) if len(keyframes) else None


class _Packets:
    """Times and keyframes of a stream, collected packet by packet."""

    def __init__(self, container: Any, stream: Any) -> None:
        import av

        self.pts: list[int | None] = []
        """In decoding order, without packets that an edit list discards."""
        self._count = 0
        """With discarded packets."""
        self._container = container
        self._stream = stream
        self._codec = stream.codec_context.codec.canonical_name
        self._keys: list[int] = []
        """Positions of keyframes in ``pts``."""
        self._end = 0
        self._resets = True
        """Every keyframe so far resets the decoder."""
        self._idr: Any = None
        if container.format.name == MP4 and self._codec == "h264":
            # Some H.264 keyframes are only recovery points. The filter keeps IDR slices.
            self._idr = av.BitStreamFilterContext("filter_units=pass_types=5", stream)

    def add(self, packet: Any) -> None:
        """Record ``packet``, whose data may be gone afterwards."""
        import av

        if packet.is_corrupt:
            raise UnreadableError(CORRUPT)
        if packet.size == 0:
            return
        self._count += 1
        if packet.is_discard:
            return
        if packet.pts is not None:
            self._end = max(self._end, packet.pts + (packet.duration or 0))
        if packet.is_keyframe:
            self._keys.append(len(self.pts))
        self.pts.append(packet.pts)
        if packet.is_keyframe and self._idr is not None and self._resets:
            self._resets = False
            with suppress(av.FFmpegError):
                self._resets = bool(self._idr.filter(packet))

    def times(self) -> _Times:
        if self._container.format.name in NO_TIMES or None in self.pts:
            numbers = np.arange(len(self.pts))
            return numbers, numbers[:0], len(numbers), True
        order = np.array(self.pts, dtype=np.int64)
        keyframes = np.sort(order[self._keys or [0]])
        pts = np.unique(order)
        if self._count == len(order):  # nothing before the first keyframe can be decoded
            pts = pts[pts >= keyframes[0]]
        return pts, keyframes, self._end, False

    def seek_by_number(self) -> bool:
        if len(_video_streams(self._container)) != 1 or not self._keys or None in self.pts:
            return False
        if self._container.format.name == MATROSKA:
            return self._codec in WITHOUT_REORDERING
        # An edit list discards packets or repeats them; the header counts each frame once.
        complete = self._count == len(self.pts) == self._stream.frames
        if self._container.format.name != MP4 or not complete or not self._resets:
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


def stack_frames(frames: Iterable[np.ndarray], count: int) -> np.ndarray:
    """``count`` frames, uint8 (height, width, 3) each, in one array without a second copy of all.

    Raises:
        UnreadableError: there are fewer, or not of one size.
    """
    stacked: np.ndarray | None = None
    found = 0
    for frame in frames:
        if stacked is None:
            stacked = np.empty((count, *frame.shape), np.uint8)
        if frame.shape != stacked.shape[1:]:
            raise UnreadableError(CORRUPT)
        stacked[found] = frame
        found += 1
    if stacked is None or found < count:
        raise UnreadableError(CORRUPT)
    return stacked

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
from sage_core.media.video_packets import (
    CORRUPT,
    EMPTY,
    MP4,
    Packets,
    Part,
    Times,
    UnreadableError,
    timeline,
)

NO_VIDEO = "no video stream, only audio or data: give an image or a video"

DEMUXERS = (
    "apv,asf,av1,avi,avs,avs2,avs3,cavsvideo,cine,dirac,dnxhd,dv,evc,flic,flv,gxf,h261,h263,h264,"
    "hevc,iff,ivf,ivr,live_flv,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mpjpeg,mxf,nsv,nut,obu,"
    "ogg,pva,r3d,rm,roq,smjpeg,smk,swf,thp,vc1,vc1test,vivo,vvc,wtv,yuv4mpegpipe"
)
"""FFmpeg's names of the containers and bare streams that are read: those whose files hold all of
their content. A playlist could lead to other files and addresses. Pictures are Pillow's."""
STILL_BRANDS = (
    *("avif", "avis", "heic", "heix", "heim", "heis", "heif", "mif1", "msf1"),
    *("hevc", "hevx", "hevm", "hevs"),
)
"""Kinds of MP4 files that are pictures, possibly of many tiles, which FFmpeg takes for videos."""

LARGE_FILE = 256 * 2**20
"""Bytes. Of a larger MP4 only the sample table is read, and not every packet."""


class NotVideoError(UnreadableError):
    """The file is none of the videos that FFmpeg knows, or has no video stream."""


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
    numbers if ``numbered``. Where times restart, they run on."""
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
    parts: tuple[Part, ...] = ()
    """Stretches between which times restart in the file; empty if they never do."""


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
        packets = Packets(container, stream)
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
        times = table or packets.times()
        rate = float(stream.average_rate or 0)
        unit = (1 / rate if rate > 0 else 0.04) if times.numbered else float(stream.time_base)
        timestamps, duration, fps = timeline(times.shown * unit, times.end * unit, rate)
        orientation = Orientation.of_frame(first)
        return VideoIndex(
            times.pts,
            times.keyframes,
            timestamps,
            duration,
            fps,
            orientation.size(first.width, first.height),
            orientation,
            container.format.name,
            container.size,
            times.numbered,
            table is None and len(_video_streams(container)) == 1 and packets.seek_by_number(),
            estimated=table is not None,
            parts=times.parts,
        )


def open_video(source: Path | bytes) -> Any:
    """PyAV's container of a file or its bytes, which reads nothing but these.

    Raises:
        NotVideoError: it is none of `DEMUXERS`.
    """
    import av

    only = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    try:
        container = av.open(ffmpeg_source(source), "r", options=only, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise NotVideoError(CORRUPT) from error
    if container.metadata.get("major_brand") in STILL_BRANDS:
        container.close()
        raise NotVideoError(CORRUPT)
    return container


def ffmpeg_source(source: Path | bytes) -> Any:
    """A stream of bytes, or an absolute path, since FFmpeg takes "a:b.mp4" for a protocol."""
    return io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())


def video_stream(container: Any) -> Any:
    """The video stream that FFmpeg ranks best, without cover images."""
    streams = _video_streams(container)
    if not streams:
        raise NotVideoError(NO_VIDEO)
    best = container.streams.best("video")
    stream = next((s for s in streams if best is not None and s.index == best.index), streams[0])
    if stream.codec_context is None:
        raise UnreadableError("unsupported video codec: convert it to H.264")
    return stream


def _video_streams(container: Any) -> list[Any]:
    from av.stream import Disposition

    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def decoded_frames(container: Any, stream: Any) -> Iterator[Any]:
    """The frames of a stream from where the container is, in presentation order.

    An empty packet repeats a frame (Theora, AVI), which stays on screen; as in FFmpeg's own tools
    it is left out, since decoders refuse it. Those without a time, at the end, flush the decoder.
    """
    for packet in container.demux(stream):
        if packet.size or packet.dts is None:
            yield from packet.decode()


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


def _from_sample_table(container: Any, stream: Any) -> Times | None:
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
    return Times(pts, keyframes, pts, end, False) if len(keyframes) else None


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

"""Videos: the index, the choice of frames, and the decoder that reads them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np

from sage_core.errors import InputError
from sage_core.media import video_decord, video_pyav
from sage_core.media.frame_sampling import choose_frames
from sage_core.media.limits import index_memory
from sage_core.media.types import Clip, Sampling
from sage_core.media.video_index import (
    NotVideoError,
    VideoIndex,
    ffmpeg_errors,
    open_video,
    read_index,
    video_stream,
)
from sage_core.media.video_packets import UnreadableError
from sage_core.media.video_pyav import KeptVideo

_T = TypeVar("_T")


def read_clip(
    source: Path | bytes, sampling: Sampling, name: str, kept: KeptVideo | None = None
) -> Clip:
    """Decode the sampled frames of a video; ``kept`` makes further parts of it cheaper.

    Raises:
        NotVideoError: FFmpeg does not know it for a video.
        InputError: corrupt, truncated, too large, the sampling lies outside the video, or PyAV is
            not installed.
    """

    def read(index: VideoIndex) -> Clip:
        chosen = choose_frames(index.timestamps, index.duration, sampling, name)
        max_pixels = sampling.largest_frame(len(chosen))
        part = sampling.start is not None or sampling.end is not None
        frames = _decode(source, index, chosen, max_pixels, part, kept)
        return Clip(frames, index.timestamps[chosen], index.fps, index.duration, name)

    return _with_index(source, name, kept, read)


def length_of(source: Path | bytes, name: str, kept: KeptVideo | None = None) -> float:
    """Seconds of a video. Raises as `read_clip`."""
    return _with_index(source, name, kept, lambda index: index.duration)


def cuts_within(
    source: Path | bytes, part: tuple[float, float], name: str, kept: KeptVideo | None = None
) -> list[float]:
    """Where scenes begin within [start, end) of a video, in seconds from its beginning.

    All frames of the part and the one before it are decoded, one after another.

    Raises:
        OptionError: PySceneDetect is not installed.
        InputError: as `read_clip`.
    """
    from sage_core.media.scenes import PIXELS, cuts

    def found(index: VideoIndex) -> list[float]:
        first, last = np.searchsorted(index.timestamps, part, side="left")
        chosen = np.arange(max(0, int(first) - 1), int(last))
        if not len(chosen):
            return []
        frames = video_pyav.each_frame(source, index, chosen, PIXELS, kept)
        return [float(index.timestamps[chosen[0] + at]) for at in cuts(frames, index.fps)]

    return _with_index(source, name, kept, found)


def _with_index(
    source: Path | bytes,
    name: str,
    kept: KeptVideo | None,
    use: Callable[[VideoIndex], _T],
) -> _T:
    """What ``use`` makes of the index of a video, which is read anew if its times were wrong."""
    kept = kept or KeptVideo()

    def index(every_packet: bool) -> VideoIndex:
        def read() -> VideoIndex:
            with index_memory():
                return read_index(source, name, every_packet)

        return kept.index(source, read, every_packet)

    try:
        with suppress(video_pyav.MissedFrameError):  # then its times were estimated, and wrong
            return use(index(every_packet=False))
        return use(index(every_packet=True))
    except NotVideoError:
        raise
    except UnreadableError as error:
        raise InputError(f"{name}: {error}") from error.__cause__
    except ImportError as error:
        raise InputError(f"{name}: reading a video requires PyAV: pip install av") from error


def _decode(
    source: Path | bytes,
    index: VideoIndex,
    chosen: np.ndarray,
    max_pixels: int | None,
    part: bool,
    kept: KeptVideo | None,
) -> np.ndarray:
    """By decord where it is exact, but for a part of a file: it reads the whole one."""
    if not part and video_decord.is_exact(index):
        with suppress(ImportError, UnreadableError):
            return video_decord.decode(source, index, chosen, max_pixels)
    return video_pyav.decode(source, index, chosen, max_pixels, kept)


def is_video(data: bytes) -> bool:
    """Whether FFmpeg finds a video stream in the beginning of a file."""
    try:
        with ffmpeg_errors(), open_video(data) as container:
            return bool(video_stream(container))
    except (UnreadableError, ImportError):
        return False

"""Videos: the index, the choice of frames, and the decoder that reads them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

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


def read_clip(source: Path | bytes, sampling: Sampling, name: str) -> Clip:
    """Decode the sampled frames of a video.

    Raises:
        NotVideoError: FFmpeg does not know it for a video.
        InputError: corrupt, truncated, too large, the sampling lies outside the video, or PyAV is
            not installed.
    """
    try:
        with suppress(video_pyav.MissedFrameError):  # then its times were estimated, and wrong
            return _read(source, _index(source, name), sampling, name)
        return _read(source, _index(source, name, every_packet=True), sampling, name)
    except NotVideoError:
        raise
    except UnreadableError as error:
        raise InputError(f"{name}: {error}") from error.__cause__
    except ImportError as error:
        raise InputError(f"{name}: reading a video requires PyAV: pip install av") from error


def _index(source: Path | bytes, name: str, every_packet: bool = False) -> VideoIndex:
    with index_memory():
        return read_index(source, name, every_packet)


def _read(source: Path | bytes, index: VideoIndex, sampling: Sampling, name: str) -> Clip:
    chosen = choose_frames(index.timestamps, index.duration, sampling, name)
    frames = _decode(source, index, chosen, sampling.largest_frame(len(chosen)))
    return Clip(frames, index.timestamps[chosen], index.fps, index.duration, name)


def _decode(
    source: Path | bytes, index: VideoIndex, chosen: np.ndarray, max_pixels: int | None
) -> np.ndarray:
    if video_decord.is_exact(index):
        with suppress(ImportError, UnreadableError):
            return video_decord.decode(source, index, chosen, max_pixels)
    return video_pyav.decode(source, index, chosen, max_pixels)


def is_video(data: bytes) -> bool:
    """Whether FFmpeg finds a video stream in the beginning of a file."""
    try:
        with ffmpeg_errors(), open_video(data) as container:
            return bool(video_stream(container))
    except (UnreadableError, ImportError):
        return False

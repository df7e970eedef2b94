"""Animated images: GIF, WebP, PNG and AVIF. Pillow decodes them, in one pass up to the last frame.

Pillow tells how long a frame is shown only once it is decoded, so times come from the file: by
FFmpeg's demuxers, or for WebP, which they do not read, from the headers of the frames.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from sage_core.errors import InputError
from sage_core.media.colours import to_rgb
from sage_core.media.frame_sampling import LARGE, choose_frames
from sage_core.media.types import Clip, Sampling, fit

DEFAULT_FRAME_SECONDS = 0.1
"""Duration of a frame where an animation gives none, as in browsers."""
MOST = 2**30
"""Pixels of all frames that are decoded; more take minutes."""
DEMUXERS = {
    "GIF": {"format_whitelist": "gif", "min_delay": "1", "default_delay": "10"},
    "PNG": {"format_whitelist": "apng", "default_fps": "10"},
    "AVIF": {"format_whitelist": "mov"},
}
"""FFmpeg's demuxers and options by Pillow's format; a frame of no duration has the default."""


def hidden_frames(image: Image.Image) -> int:
    """1 if the first frame of a PNG is only for programs that do not know animations, else 0."""
    return int(bool(getattr(image, "default_image", False)))


def read_animation(image: Image.Image, source: Path | bytes, sampling: Sampling, name: str) -> Clip:
    """Sample an animation. Frames depend on earlier ones, so those are decoded as well.

    Raises:
        InputError: the frames are too large or too many, or the sampling lies outside.
    """
    first = hidden_frames(image)
    count = int(getattr(image, "n_frames", 1)) - first
    if image.width * image.height > LARGE:
        raise _too_large(image, count, name)
    durations = _from_file(source, str(image.format), count)
    if durations is None:
        durations = _by_decoding(image, first, count, name)
    times = np.concatenate([[0.0], np.cumsum(durations)])
    duration = float(times[-1])
    chosen = choose_frames(times[:-1], duration, sampling, name)
    _check_total(image, int(chosen[-1]) + 1, name)
    size = fit(*image.size, sampling.largest_frame(len(chosen)))
    frames = np.empty((len(chosen), size[1], size[0], 3), np.uint8)
    for place, index in enumerate(chosen):
        image.seek(first + int(index))
        rgb = to_rgb(image)
        if rgb.size != size:
            rgb = rgb.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
        frames[place] = np.asarray(rgb)
    return Clip(frames, times[chosen], count / duration, duration, name)


def _check_total(image: Image.Image, frames: int, name: str) -> None:
    if frames * image.width * image.height > MOST:
        raise _too_large(image, frames, name)


def _too_large(image: Image.Image, frames: int, name: str) -> InputError:
    return InputError(
        f"{name}: {frames} frames of {image.width}x{image.height} exceed {LARGE // 10**6} "
        f"megapixels each or {MOST // 10**6} in all: shrink the animation or choose an earlier end"
    )


def _from_file(source: Path | bytes, kind: str, count: int) -> list[float] | None:
    """Seconds that each of ``count`` frames is shown; None if the file tells of another number."""
    if kind == "WEBP":
        found = _of_webp(source.read_bytes() if isinstance(source, Path) else source)
        return found if len(found) == count else None
    try:
        import av

        from sage_core.media.video_index import ffmpeg_source
    except ImportError:
        return None
    streams: defaultdict[int, list[float]] = defaultdict(list)
    options = {**DEMUXERS[kind], "protocol_whitelist": "file"}
    with suppress(av.FFmpegError, ValueError), av.open(ffmpeg_source(source), options=options) as c:
        for packet in c.demux(video=tuple(range(len(c.streams.video)))):
            if packet.size and packet.duration:
                streams[packet.stream_index].append(float(packet.duration * packet.time_base))
    return next((found for found in streams.values() if len(found) == count), None)


def _of_webp(data: bytes) -> list[float]:
    """From the ANMF chunks of the RIFF file: 24 bits of milliseconds after four other numbers."""
    found, at = [], 12
    while at + 8 <= len(data):
        if data[at : at + 4] == b"ANMF":
            milliseconds = int.from_bytes(data[at + 20 : at + 23], "little")
            found.append(milliseconds / 1000 or DEFAULT_FRAME_SECONDS)
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return found


def _by_decoding(image: Image.Image, first: int, count: int, name: str) -> list[float]:
    """Seconds that each frame is shown, as Pillow tells them; the slow way."""
    _check_total(image, count, name)
    found = []
    for index in range(first, first + count):
        image.seek(index)
        image.load()
        seconds = float(image.info.get("duration") or 0) / 1000
        found.append(seconds if seconds > 0 else DEFAULT_FRAME_SECONDS)
    return found

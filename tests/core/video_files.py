"""Writes clips of every kind: codecs, containers, clocks, rotations, sound and covers.

Their frames tell which way is up, and which frame they are: see `painted`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FRAMES = 12
RATE = 8
"""Frames a second of a clip with a steady clock."""
CLOCK = Fraction(1, 1000)

TURNS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""The numbers a, b, c, d of a track's matrix, by the degrees that it turns clockwise."""


@dataclass(frozen=True)
class Video:
    """One kind of file. ``size`` is of the stored frames, before any rotation."""

    name: str
    codec: str = "libx264"
    container: str | None = None
    pixels: str = "yuv420p"
    size: tuple[int, int] = (64, 48)
    frames: int = FRAMES
    times: tuple[float, ...] | None = None
    """Seconds at which the frames appear; None is every 1 / `RATE`."""
    turn: int = 0
    """Degrees clockwise that a player turns the frames by; stored turned back."""
    options: dict[str, str] = field(default_factory=dict)
    mux: dict[str, str] = field(default_factory=dict)
    interlaced: bool = False
    sound: bool = False
    full_range: bool = False


def painted(index: int, frames: int, size: tuple[int, int]) -> np.ndarray:
    """Frame ``index``: red, green, blue and white quarters, brighter from frame to frame.

    uint8 of shape (height, width, 3).
    """
    width, height = size
    level = round(60 + 180 * index / max(1, frames - 1))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2, 0] = level
    pixels[: height // 2, width // 2 :, 1] = level
    pixels[height // 2 :, : width // 2, 2] = level
    pixels[height // 2 :, width // 2 :] = level
    return pixels


def index_of(frame: np.ndarray, frames: int) -> int:
    """Which frame of `painted` an upright ``frame`` is, from its white quarter."""
    height, width = frame.shape[:2]
    white = frame[height * 5 // 8 : height * 7 // 8, width * 5 // 8 : width * 7 // 8]
    return round((float(white.mean()) - 60) / 180 * max(1, frames - 1))


def is_upright(frame: np.ndarray) -> bool:
    """True if red, green and blue are where `painted` has them."""
    height, width = frame.shape[:2]
    corners = (frame[0, 0], frame[0, -1], frame[-1, 0])
    assert height and width
    return [int(np.argmax(c)) for c in corners] == [0, 1, 2]


def write_video(video: Video, path: Path) -> Path:
    """Encode ``video`` to ``path``.

    Raises:
        ValueError or av.FFmpegError: this build of PyAV has no such encoder.
    """
    times = video.times or tuple(i / RATE for i in range(video.frames))
    with av.open(str(path), "w", format=video.container, options=dict(video.mux)) as out:
        stream = out.add_stream(video.codec, rate=Fraction(RATE))
        stream.width, stream.height = video.size
        stream.pix_fmt = video.pixels
        stream.options = dict(video.options)
        if video.times is not None:
            stream.codec_context.time_base = CLOCK
        sound = out.add_stream("aac", rate=16000) if video.sound else None
        for index, seconds in enumerate(times):
            frame = _frame(video, index)
            if video.times is not None:
                frame.pts, frame.time_base = round(seconds / CLOCK), CLOCK
            else:
                frame.pts, frame.time_base = index, Fraction(1, RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            write_silence(out, sound, round(16 * times[-1]))
    if video.turn:
        path.write_bytes(turned(path.read_bytes(), video.turn))
    return path


def _frame(video: Video, index: int) -> av.VideoFrame:
    width, height = video.size
    upright = (height, width) if video.turn in (90, 270) else (width, height)
    pixels = np.rot90(painted(index, video.frames, upright), video.turn // 90)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    if video.full_range:
        return frame.reformat(format=video.pixels, dst_color_range="JPEG")
    return frame


def write_silence(out: Any, stream: Any, blocks: int) -> None:
    """``blocks`` times 1,024 samples of silence at 16,000 a second."""
    for index in range(max(1, blocks)):
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.rate, frame.pts = 16000, index * 1024
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def turned(data: bytes, degrees: int) -> bytes:
    """An MP4 or MOV whose tracks' matrix asks for a turn: `tkhd`, as phones write it."""
    changed = bytearray(data)
    at = data.find(b"tkhd")
    assert at > 0
    while at > 0:
        matrix = at + 4 + 4 + (20 if data[at + 4] == 0 else 32) + 16
        a, b, c, d = TURNS[degrees]
        numbers = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
        changed[matrix : matrix + 36] = struct.pack(">9i", *numbers)
        at = data.find(b"tkhd", at + 4)
    return bytes(changed)

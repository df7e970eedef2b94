"""Writes videos of many kinds: codecs, containers, frame times, rotations, audio and covers.

Each frame shows its number and which side is up: see `painted`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from sage_core.media import Clip

FRAMES = 12
RATE = 8
"""Frames per second of a video with a constant frame rate."""
CLOCK = Fraction(1, 1000)

TURNS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""The numbers a, b, c, d of a track's matrix, by the degrees of its clockwise rotation."""

UNEVEN = (0.0, 0.1, 0.2, 0.9, 1.0, 1.1, 1.9, 2.0, 2.5, 2.6, 2.7, 3.3)
"""Times in seconds of a variable frame rate, as of a phone in the dark or a screen recording."""


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
    """Degrees of clockwise rotation by a player; the stored frames are rotated back."""
    options: dict[str, str] = field(default_factory=dict)
    mux: dict[str, str] = field(default_factory=dict)
    sound: bool = False
    note: str = ""
    """What distinguishes it."""
    by_pyav: bool = False
    """PyAV decodes it: decord cannot, or would return wrong frames after a seek."""


_GROUPS = {"g": "4", "bf": "2"}
_OPEN_264 = {"bf": "2", "x264-params": "open_gop=1:keyint=4:min-keyint=4:scenecut=0"}
_OPEN_265 = {"x265-params": "keyint=4:min-keyint=4:open-gop=1:bframes=2:log-level=none"}
_CLOSED_265 = {"x265-params": "keyint=4:open-gop=0:log-level=none"}
_FIELDS = {"flags": "+ildct+ilme"}
_PIECES = {"movflags": "frag_keyframe+empty_moov"}

KINDS = (
    Video("h264.mp4", options=_GROUPS),
    Video("h264.mov", options=_GROUPS),
    Video("h264.mkv", options=_GROUPS, by_pyav=True),
    Video("h264.avi", options={"g": "4", "bf": "0"}, by_pyav=True),
    Video("h264-b.avi", options=_GROUPS, by_pyav=True, note="B-frames, without times"),
    Video("h264.ts", container="mpegts", options=_GROUPS, by_pyav=True),
    Video("h264.flv", options=_GROUPS, by_pyav=True),
    Video("h264-open.mp4", options=_OPEN_264, note="open GOPs", by_pyav=True),
    Video("h264-pieces.mp4", options=_GROUPS, mux=_PIECES, note="fragmented", by_pyav=True),
    Video("h264-fields.mp4", options=_FIELDS, size=(64, 64), note="interlaced"),
    Video("h264-422.mp4", pixels="yuv422p"),
    Video("h264-444-odd.mp4", pixels="yuv444p", size=(65, 49), note="odd size"),
    Video("h264-10bit.mp4", pixels="yuv420p10le", note="10 bits"),
    Video("h264-full.mp4", pixels="yuvj420p", note="full range"),
    Video("h264-sound.mp4", options=_GROUPS, sound=True, note="with audio"),
    Video("h264-narrow.mp4", size=(48, 64), note="48 pixels wide"),
    Video("h264-one.mp4", frames=1, note="one frame"),
    Video("hevc.mp4", "libx265", options=_CLOSED_265),
    Video("hevc.mkv", "libx265", options=_CLOSED_265, by_pyav=True),
    Video("hevc-open.mp4", "libx265", options=_OPEN_265, note="open GOPs"),
    Video("hevc-open.mkv", "libx265", options=_OPEN_265, note="open GOPs", by_pyav=True),
    Video("hevc-10bit.mp4", "libx265", pixels="yuv420p10le", options=_CLOSED_265, note="10 bits"),
    Video("vp8.webm", "libvpx", options={"g": "4"}),
    Video("vp9.webm", "libvpx-vp9", options={"g": "4"}),
    Video("vp9-odd.webm", "libvpx-vp9", size=(65, 49), note="odd size"),
    Video("vp9-alpha.webm", "libvpx-vp9", pixels="yuva420p", note="transparency, ignored"),
    Video("vp9-one.webm", "libvpx-vp9", frames=1, note="one frame"),
    Video("av1.mp4", "libsvtav1", by_pyav=True),
    Video("av1.mkv", "libsvtav1", by_pyav=True),
    Video("av1.webm", "libsvtav1", by_pyav=True),
    Video("mpeg4.mp4", "mpeg4", options=_GROUPS, by_pyav=True),
    Video("mpeg4.avi", "mpeg4", options={"g": "4"}, by_pyav=True),
    Video("mpeg4-b.avi", "mpeg4", options=_GROUPS, by_pyav=True, note="B-frames, without times"),
    Video("mpeg2.mkv", "mpeg2video", options=_GROUPS, note="open GOPs", by_pyav=True),
    Video("mpeg2.ts", "mpeg2video", "mpegts", options=_GROUPS, by_pyav=True),
    Video("mpeg2.mpg", "mpeg2video", "mpeg", options=_GROUPS, by_pyav=True),
    Video("h263.3gp", "h263", size=(176, 144)),
    Video("mjpeg.avi", "mjpeg", pixels="yuvj420p", by_pyav=True),
    Video("prores-alpha.mov", "prores_ks", pixels="yuva444p10le", note="transparency, ignored"),
    Video("qtrle-alpha.mov", "qtrle", pixels="argb", note="transparency, ignored"),
    Video(
        "ffv1-odd.mkv",
        "ffv1",
        pixels="yuv444p",
        size=(65, 49),
        note="odd size, lossless",
        by_pyav=True,
    ),
    Video("wmv2.wmv", "wmv2", options={"g": "4"}, by_pyav=True),
    Video("uneven.mp4", times=UNEVEN, options=_GROUPS, note="variable frame rate"),
    Video("uneven.mov", times=UNEVEN, options=_GROUPS, note="variable frame rate"),
    Video("uneven.mkv", times=UNEVEN, options=_GROUPS, note="variable frame rate", by_pyav=True),
    Video("uneven.webm", "libvpx-vp9", times=UNEVEN, note="variable frame rate"),
    Video("uneven-hevc.mp4", "libx265", times=UNEVEN, options=_CLOSED_265, note="the same"),
    Video("turned-90.mp4", turn=90, options=_GROUPS, note="rotated by 90 degrees"),
    Video("turned-180.mov", turn=180, options=_GROUPS, note="rotated by 180 degrees"),
    Video(
        "turned-270.mp4", "libx265", turn=270, options=_CLOSED_265, note="rotated by 270 degrees"
    ),
    Video("turned-av1.mp4", "libsvtav1", turn=90, by_pyav=True, note="rotated by 90 degrees"),
    Video("turned-open.mp4", turn=90, options=_OPEN_264, note="rotated, open GOPs", by_pyav=True),
)


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


def index_of(frame: np.ndarray, frames: int) -> float:
    """Which frame of `painted` an upright ``frame`` is, from its white quarter; not rounded."""
    height, width = frame.shape[:2]
    white = frame[height * 5 // 8 : height * 7 // 8, width * 5 // 8 : width * 7 // 8]
    return (float(white.mean()) - 60) / 180 * max(1, frames - 1)


def is_upright(frame: np.ndarray) -> bool:
    """True if red, green and blue are where `painted` has them."""
    height, width = frame.shape[:2]
    corners = (frame[0, 0], frame[0, -1], frame[-1, 0])
    assert height and width
    return [int(np.argmax(c)) for c in corners] == [0, 1, 2]


def faults(clip: Clip, video: Video) -> set[str]:
    """What is wrong with decoded frames of ``video``: their times, contents or orientation."""
    times = np.array(video.times or [i / RATE for i in range(video.frames)])
    found = set()
    for frame, seconds in zip(clip.frames, clip.timestamps, strict=True):
        index = int(np.argmin(np.abs(times - seconds)))
        if abs(times[index] - seconds) > 2e-3:
            found.add("wrong time")
        if abs(index_of(frame, video.frames) - index) > 0.6:
            found.add("wrong frame")
        if not is_upright(frame):
            found.add("not upright")
    return found


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
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")


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
    """An MP4 or MOV with a rotation in the matrix of its tracks (`tkhd`), as phones write it."""
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


SOUNDS = {
    "sound.mp4": "aac",
    "sound.mov": "aac",
    "sound.mkv": "aac",
    "sound.webm": "libopus",
    "sound.avi": "aac",
    "sound.ts": "aac",
    "sound.flv": "aac",
}
"""Video containers that hold only audio, with its codec."""


def write_sound_only(path: Path) -> Path:
    """A second of silence in a video container."""
    rate = 48000 if SOUNDS[path.name] == "libopus" else 16000
    with av.open(str(path), "w", format="mpegts" if path.suffix == ".ts" else None) as out:
        stream = out.add_stream(SOUNDS[path.name], rate=rate)
        samples = 960 if rate == 48000 else 1024
        for index in range(rate // samples):
            silence = np.zeros((1, samples), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.rate, frame.pts = rate, index * samples
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def write_cover(path: Path, with_video: bool) -> Path:
    """An MP4 with audio and a cover image, with or without video."""
    with av.open(str(path), "w") as out:
        sound = out.add_stream("aac", rate=16000)
        video = out.add_stream("libx264", rate=RATE) if with_video else None
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 96, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        if video is not None:
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        picture = av.VideoFrame.from_ndarray(painted(0, 2, (96, 96)), format="rgb24")
        out.mux(cover.encode(picture))
        out.mux(cover.encode(None))
        for index in range(FRAMES) if video is not None else ():
            frame = av.VideoFrame.from_ndarray(painted(index, FRAMES, (64, 48)), format="rgb24")
            out.mux(video.encode(frame))
        if video is not None:
            out.mux(video.encode(None))
        write_silence(out, sound, 16)
    return path


def edited(data: bytes, start: int = 0, seconds: float | None = None) -> bytes:
    """An MP4 whose edit list begins ``start`` units later, or shows ``seconds`` only."""
    changed = bytearray(data)
    at = data.index(b"elst") + 12
    length, begin, rate = struct.unpack_from(">Iii", data, at)
    if seconds is not None:
        length = round(seconds * 1000)  # FFmpeg's units of a whole movie
    changed[at : at + 12] = struct.pack(">Iii", length, begin + start, rate)
    return bytes(changed)


def with_edits(data: bytes, edits: Sequence[tuple[int, int]]) -> bytes:
    """An MP4 with the edit list ``edits``: milliseconds shown, from which frame on (-1: none).

    The index must come after the frames, whose offsets then stay.
    """
    at = data.index(b"elst") - 4
    begin = struct.unpack_from(">Iii", data, at + 16)[1]
    unit = int.from_bytes(data[(mdhd := data.index(b"mdhd")) + 16 : mdhd + 20], "big") // RATE
    starts = [begin + frame * unit if frame >= 0 else -1 for _, frame in edits]
    entries = [struct.pack(">Iii", e[0], s, 1 << 16) for e, s in zip(edits, starts, strict=True)]
    box = struct.pack(">I4sII", 16 + 12 * len(edits), b"elst", 0, len(edits)) + b"".join(entries)
    old = int.from_bytes(data[at : at + 4], "big")
    changed = bytearray(data[:at] + box + data[at + old :])
    for parent in (b"edts", b"trak", b"moov"):
        size = data.index(parent) - 4
        grown = int.from_bytes(data[size : size + 4], "big") + len(box) - old
        changed[size : size + 4] = grown.to_bytes(4, "big")
    return bytes(changed)

"""Small files of every format that Pillow and PyAV write here, and mutations of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, features

from tests.core.damage import DAMAGES, damaged
from tests.core.media_files import encoded
from tests.core.video_files import Video, write_video

PICTURES = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "TGA", "ICO"),
    *("ICNS", "DDS", "PCX", "SGI", "MPO", "QOI"),
)
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")
_GROUPS = {"g": "4", "bf": "2"}
_CLOSED = {"x265-params": "keyint=4:open-gop=0:log-level=none"}
VIDEOS = (
    *(Video(f"h264.{name}", options=_GROUPS) for name in ("mp4", "mov", "mkv", "flv")),
    Video("h264.avi", options={"g": "4", "bf": "0"}),
    Video("h264.ts", container="mpegts", options=_GROUPS),
    Video("h264-pieces.mp4", options=_GROUPS, mux={"movflags": "frag_keyframe+empty_moov"}),
    Video("h264-10bit.mp4", pixels="yuv420p10le"),
    Video("h264-sound.mp4", options=_GROUPS, sound=True),
    Video("h264.h264", container="h264", options=_GROUPS),
    *(Video(f"hevc.{name}", "libx265", options=_CLOSED) for name in ("mp4", "mkv", "ts")),
    Video("vp8.webm", "libvpx", options={"g": "4"}),
    Video("vp9.webm", "libvpx-vp9", options={"g": "4"}),
    Video("vp9.mp4", "libvpx-vp9", options={"g": "4"}),
    *(Video(f"av1.{name}", "libsvtav1") for name in ("mp4", "webm")),
    *(Video(f"mpeg4.{name}", "mpeg4", options={"g": "4"}) for name in ("mp4", "avi", "mkv")),
    Video("mpeg2.mpg", "mpeg2video", "mpeg", options=_GROUPS),
    Video("mpeg2.vob", "mpeg2video", "vob", options=_GROUPS),
    Video("mjpeg.avi", "mjpeg", pixels="yuvj420p"),
    Video("mjpeg.mov", "mjpeg", pixels="yuvj420p"),
    Video("theora.ogv", "libtheora", "ogg"),
    Video("prores.mov", "prores_ks", pixels="yuva444p10le"),
    Video("ffv1.mkv", "ffv1", pixels="yuv444p"),
    Video("wmv2.wmv", "wmv2", options={"g": "4"}),
    Video("raw.y4m", "rawvideo", "yuv4mpegpipe"),
    Video("turned.mp4", turn=90, options=_GROUPS),
)
HOWS = (*DAMAGES, "remove", "splice")


def sources(folder: Path) -> dict[str, bytes]:
    """Complete files by name; a format that this machine cannot write is left out."""
    dice = np.random.default_rng(0)
    noise = dice.integers(0, 255, (48, 64, 3)).astype(np.uint8)
    smooth = np.kron(dice.integers(0, 255, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    first, *others = (Image.fromarray(np.roll(noise, i, axis=1)) for i in range(4))
    files = {}
    for kind in PICTURES:
        _keep(files, f"picture.{kind.lower()}", first, kind)
    for kind in ANIMATED:
        _keep(files, f"animated.{kind.lower()}", first, kind, save_all=True, append_images=others)
    large = Image.fromarray(smooth)
    _keep(files, "progressive.jpeg", large, "JPEG", progressive=True, icc_profile=bytes(4000))
    _keep(files, "cmyk.jpeg", large.convert("CMYK"), "JPEG")
    _keep(files, "palette.png", large.quantize(64), "PNG")
    _keep(files, "grey16.png", Image.fromarray(smooth[..., 0].astype(np.uint16) * 257), "PNG")
    _keep(files, "alpha.webp", large.convert("RGBA"), "WEBP", lossless=True)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4"):
        image = large.convert("1") if compression == "group4" else large
        _keep(files, f"{compression}.tiff", image, "TIFF", compression=compression)
    for video in VIDEOS:
        try:
            files[video.name] = write_video(video, folder / video.name).read_bytes()
        except (ValueError, OSError, RuntimeError):  # no such encoder or container here
            continue
    return {name: data for name, data in files.items() if data}


def _keep(files: dict[str, bytes], name: str, image: Image.Image, kind: str, **how: object) -> None:
    if kind == "AVIF" and not features.check("avif"):
        return
    try:
        files[name] = encoded(image, kind, **how)
    except (KeyError, OSError, ValueError):  # no such encoder here
        return


def mutations(files: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """``count`` times the file's name, what was done to it, and the data."""
    dice = random.Random(seed)
    names = sorted(files)
    for number in range(count):
        name = names[number % len(names)]
        how = HOWS[number // len(names) % len(HOWS)]
        data = _mutated(files[name], how, files[dice.choice(names)], dice)
        if dice.random() < 0.25:  # two faults hide behind each other
            data = _mutated(data, dice.choice(DAMAGES), b"", dice)
        yield name, how, data


def _mutated(data: bytes, how: str, other: bytes, dice: random.Random) -> bytes:
    if len(data) < 2:
        return data
    start, end = sorted((dice.randrange(len(data)), dice.randrange(len(data))))
    if how == "remove":
        return data[:start] + data[end + 1 :] or data
    if how == "splice":
        return data[:end] + other[dice.randrange(len(other)) :]
    return damaged(data, how, dice)

"""Writes and decodes the images and videos of the media tests."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from sage_core.media import Clip, Sampling
from sage_core.media.frame_sampling import choose_frames
from sage_core.media.video_index import read_index


def card(width: int = 64, height: int = 48) -> Image.Image:
    """Red, green, blue and white quarters: top left, top right, bottom left, bottom right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_clip(
    path: Path,
    frames: int = 16,
    size: tuple[int, int] = (64, 48),
    rate: int = 8,
    codec: str = "libx264",
    container: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A clip whose frame ``i`` is grey of level ``10 + 12 * i`` with noise, so that it has bulk."""
    noise = np.random.default_rng(0).integers(0, 9, (frames, size[1], size[0], 1))
    with av.open(str(path), "w", format=container, options=options or {}) as out:
        stream = out.add_stream(codec, rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = size[0], size[1], "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": "10", "bf": "2"}
        for i in range(frames):
            grey = np.clip(10 + 12 * i + noise[i], 0, 255).astype(np.uint8).repeat(3, axis=2)
            for packet in stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return path


def write_sound(path: Path) -> Path:
    """A second of silence, without video."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000)
        for i in range(16):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.rate, frame.pts = 16000, i * 1024
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return path


def level_of(frame: np.ndarray) -> int:
    """Which frame of `write_clip` this is, from its grey."""
    return round((float(frame.mean()) - 14) / 12)


def decoded_by(decoder: Any, path: Path, sampling: Sampling) -> Clip:
    """What the module ``decoder`` (`video_decord` or `video_pyav`) makes of a video."""
    index = read_index(path, "x")
    chosen = choose_frames(index.timestamps, index.duration, sampling, "x")
    frames = decoder.decode(path, index, chosen, sampling.largest_frame(len(chosen)))
    return Clip(frames, index.timestamps[chosen], index.fps, index.duration, "x")

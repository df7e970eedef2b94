"""Images by Pillow: any common format becomes one upright RGB image, an animation a clip."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sage_core.errors import InputError
from sage_core.media.frame_sampling import MAX_PIXELS, check_size, choose_frames
from sage_core.media.types import Clip, Picture, Sampling, fit

DEFAULT_FRAME_SECONDS = 0.1
"""Duration of a frame where an animation gives none, as in browsers."""


def read_picture(source: Path | bytes, sampling: Sampling, name: str) -> Picture | Clip:
    """Decode an image file; an animation becomes a clip.

    Raises:
        InputError: corrupt, truncated, of an unsupported format, or too large.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    with _as_input_errors(name), Image.open(stream) as image:
        check_size(*image.size, name)
        if getattr(image, "n_frames", 1) > 1 and image.format in ("GIF", "WEBP", "PNG", "AVIF"):
            return _animation(image, sampling, name)
        image.load()
        return from_image(image, sampling, name)


def from_image(image: Image.Image, sampling: Sampling, name: str) -> Picture:
    """A Pillow image of any mode as an upright RGB `Picture`, no larger than ``max_pixels``."""
    check_size(*image.size, name)
    with _as_input_errors(name):
        upright = ImageOps.exif_transpose(image)
        rgb = to_rgb(upright if upright is not None else image)
        return Picture(_shrunk(rgb, sampling.max_pixels), name)


def _shrunk(image: Image.Image, max_pixels: int | None) -> Image.Image:
    size = fit(*image.size, max_pixels)
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB from any Pillow mode: deep greys scaled to 8 bits, alpha composited on white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _deep_grey(image)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _deep_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or float, to 8 bits.

    Pillow's conversion clips at 255. Integers up to 65,535 are divided by 257 and floats in [0, 1]
    multiplied by 255; other ranges are mapped from their minimum and maximum to 0 and 255.
    """
    values = np.asarray(image, dtype=np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and low >= 0 and high <= 1:
        values = values * 255
    elif image.mode != "F" and low >= 0 and high <= 65535:
        values = values / 257
    else:
        values = (values - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(np.rint(values).astype(np.uint8))


def _animation(image: Image.Image, sampling: Sampling, name: str) -> Clip:
    """Sample an animation. Frames depend on earlier ones, so all are decoded and few are kept."""
    count = int(getattr(image, "n_frames", 1))
    durations = []
    for index in range(count):
        image.seek(index)
        if image.format == "WEBP":
            image.load()  # WebP gives a frame's duration only after decoding it
        seconds = float(image.info.get("duration") or 0) / 1000
        durations.append(seconds if seconds > 0 else DEFAULT_FRAME_SECONDS)
    times = np.concatenate([[0.0], np.cumsum(durations)])
    duration = float(times[-1])
    chosen = choose_frames(times[:-1], duration, sampling, name)
    most = sampling.largest_frame(len(chosen))
    frames = []
    for index in chosen:
        image.seek(int(index))
        frames.append(np.asarray(_shrunk(to_rgb(image), most)))
    return Clip(np.stack(frames), times[chosen], count / duration, duration, name)


@contextmanager
def _as_input_errors(name: str) -> Iterator[None]:
    """Turn what Pillow raises on a bad file into an `InputError` of one line.

    Its warning below its own limit is silenced; `check_size` has the limit that applies here.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        limit = f"{MAX_PIXELS // 1_000_000} megapixels"
        raise InputError(f"{name}: the image exceeds {limit}: shrink it") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name}: the image is corrupt or of an unsupported format: convert it to PNG"
        ) from error
    except Exception as error:  # Pillow's plugins raise many types on corrupt data
        raise InputError(
            f"{name}: the image is corrupt or truncated ({_short(error)}): get a complete copy"
        ) from error


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 80 else text[:77] + "..."

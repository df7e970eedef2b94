"""RGB from Pillow images of any mode, in bounded memory."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms

STRIP = 2**22
"""Pixels that are converted at once."""


LARGEST_PROFILE = 2**20
"""Bytes of a colour profile; those of photographs have some hundreds."""
SAME = 3
"""Levels of 255 by which a profile's colours may differ from sRGB's without a conversion."""


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An RGB image whose values are those of ``profile`` (ICC), converted to sRGB in place.

    A profile that cannot be read, or is about that of sRGB, changes nothing.
    """
    if not profile or len(profile) > LARGEST_PROFILE:
        return image
    try:
        given = ImageCms.getOpenProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        convert = ImageCms.buildTransform(given, srgb, "RGB", "RGB")
        # Every combination of nine levels of red, green and blue.
        levels = np.linspace(0, 255, 9).astype(np.uint8)
        cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
        converted = ImageCms.applyTransform(Image.fromarray(cube), convert)
        if converted is not None and _distance(cube, np.asarray(converted)) > SAME:
            ImageCms.applyTransform(image, convert, inPlace=True)
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError):
        pass
    return image


def _distance(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(np.int16) - other).max())


def to_rgb(image: Image.Image, factor: int = 1) -> Image.Image:
    """RGB from any Pillow mode: deep greys scaled to 8 bits, alpha composited on white.

    Width and height are divided by ``factor`` and rounded up, each pixel the mean of the square
    that it replaces.
    """
    if factor == 1 and image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    deep = image.mode.startswith("I;16") or image.mode in ("I", "F")
    levels = _levels(image, factor) if deep else (0.0, 1.0)
    found = None
    for top, strip in _strips(image, factor):
        rgb = _deep_grey(strip, levels) if deep else _opaque(strip)
        rgb = rgb.reduce(factor) if factor > 1 else rgb
        if strip.height == image.height:
            return rgb
        if found is None:
            found = Image.new("RGB", (rgb.width, -(-image.height // factor)))
        found.paste(rgb, (0, top // factor))
    assert found is not None
    return found


def _strips(image: Image.Image, factor: int) -> Iterator[tuple[int, Image.Image]]:
    """Whole rows of the image from top to bottom, a multiple of ``factor`` of them, and where."""
    rows = max(1, STRIP // image.width // factor) * factor
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _opaque(image: Image.Image) -> Image.Image:
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # of 16 bits; Pillow keeps the upper 8 of pixels
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if key is not None or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _levels(image: Image.Image, factor: int) -> tuple[float, float]:
    """The value that becomes black, and the number that becomes one of 255 steps of brightness.

    Integers up to 65,535 are divided by 257 and floats in [0, 1] multiplied by 255; other ranges
    are mapped from their minimum and maximum to 0 and 255.
    """
    ends = [(values.min(), values.max()) for _, s in _strips(image, factor) for values in [_of(s)]]
    low, high = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
    if image.mode == "F" and low >= 0 and high <= 1:
        return 0.0, 1 / 255
    if image.mode != "F" and low >= 0 and high <= 65535:
        return 0.0, 257.0
    return low, max(high - low, 1e-12) / 255


def _deep_grey(image: Image.Image, levels: tuple[float, float]) -> Image.Image:
    """Grey of 16 or 32 bits, or float, to 8 bits; Pillow's conversion clips at 255."""
    low, step = levels
    values = _of(image)
    grey = np.rint((values - low) / step).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255
    return Image.fromarray(grey).convert("RGB")


def _of(image: Image.Image) -> np.ndarray:
    """Finite values, float64 of shape (height, width)."""
    values = np.asarray(image, dtype=np.float64)
    return np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)

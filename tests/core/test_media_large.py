"""Large images: decoded small, converted in strips, and never more than memory allows."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sage_core.errors import InputError
from sage_core.media import Picture, Sampling, colours, images, open_media
from tests.core.media_files import card, encoded

DEEP = np.random.default_rng(0).integers(0, 60_000, (48, 64))


def with_key() -> Image.Image:
    image = card().convert("P", palette=Image.Palette.ADAPTIVE)
    image.info["transparency"] = image.getpixel((1, 1))
    return image


def float_image() -> Image.Image:
    values = DEEP.astype(np.float32) / 7
    values[5, 5], values[6, 6] = np.nan, np.inf
    return Image.fromarray(values)


MODES: dict[str, Any] = {
    "RGB": card,
    "L": lambda: card().convert("L"),
    "1": lambda: card().convert("1"),
    "P with a key": with_key,
    "RGBA": lambda: Image.fromarray(np.dstack([np.asarray(card()), DEEP % 256]).astype(np.uint8)),
    "LA": lambda: card().convert("LA"),
    "CMYK": lambda: card().convert("CMYK"),
    "I;16": lambda: Image.fromarray(DEEP.astype(np.uint16)),
    "I": lambda: Image.fromarray(DEEP.astype(np.int32) - 999),
    "F": float_image,
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_strips_give_what_the_whole_image_gives(
    name: str, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = MODES[name]()
    whole = colours.to_rgb(image, factor)
    full = colours.to_rgb(image)
    assert whole.size == (-(-64 // factor), -(-48 // factor))
    assert full.reduce(factor).tobytes() == whole.tobytes()
    for pixels in (64 * 7, 1):
        monkeypatch.setattr(colours, "STRIP", pixels)
        assert colours.to_rgb(image, factor).tobytes() == whole.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "JPEG2000", "TIFF", "BMP"])
def test_beyond_the_limit_an_image_is_reduced(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(card(1200, 900), kind)
    monkeypatch.setattr(images, "LARGE", 600 * 450)
    picture = open_media(data)
    assert isinstance(picture, Picture)
    assert picture.size == (600, 450)
    pixels = np.asarray(picture.image).astype(int)
    assert np.abs(pixels - np.asarray(card(600, 450))).mean() < 3
    assert open_media(data, Sampling(max_pixels=120 * 90)).size == (120, 90)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_decoders_that_take_much_memory_have_a_lower_limit(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(card(120, 90), kind)
    monkeypatch.setattr(images, "LARGE", 120 * 90 - 1)
    with pytest.raises(InputError, match=f"120x90 exceeds .* the limit of {kind} images"):
        open_media(data)


@pytest.mark.parametrize(("kind", "decoded"), [("JPEG", (400, 300)), ("JPEG2000", (200, 150))])
def test_a_decoder_shrinks_for_max_pixels(
    kind: str, decoded: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def to_rgb(image: Image.Image, factor: int) -> Image.Image:
        sizes.append(image.size)
        return colours.to_rgb(image, factor)

    monkeypatch.setattr(images, "to_rgb", to_rgb)
    data = encoded(card(1600, 1200), kind)
    picture = open_media(data, Sampling(max_pixels=100 * 75))
    assert picture.size == (100, 75)
    assert sizes[0][0] <= decoded[0]
    full = np.asarray(card(100, 75)).astype(int)
    assert isinstance(picture, Picture)
    assert np.abs(np.asarray(picture.image) - full).mean() < 4


def panorama(path: Path, side: int = 9_000) -> Path:
    """A square PNG with transparency, whose rows are compressed once."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    packer = zlib.compressobj(1, wbits=-15)
    rows, times = (b"\0" + bytes((200, 60, 60, 128)) * side) * 90, side // 90
    piece = packer.compress(rows) + packer.flush(zlib.Z_FULL_FLUSH)
    check = 1
    for _ in range(times):
        check = zlib.adler32(rows, check)
    body = b"\x78\x9c" + piece * times + b"\3\0" + check.to_bytes(4, "big")
    header = side.to_bytes(4, "big") * 2 + bytes([8, 6, 0, 0, 0])
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    path.write_bytes(head + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


@pytest.mark.slow
def test_a_panorama_takes_little_more_memory_than_its_pixels(tmp_path: Path) -> None:
    if not Path("/proc/self/status").is_file():
        pytest.skip("needs /proc")
    code = (  # ru_maxrss would begin at what this process takes
        "import re, sys; from sage_core.media import open_media;"
        "p = open_media(sys.argv[1]); print(*p.size, *p.image.getpixel((9, 9)),"
        "re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    path = panorama(tmp_path / "p.png")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    width, height, red, green, blue, kilobytes = map(int, done.stdout.split())
    assert (width, height) == (4500, 4500)
    assert (red, green, blue) == pytest.approx((227, 157, 157), abs=1)
    assert kilobytes < 600_000  # 324 MB of pixels, 81 MB of the result

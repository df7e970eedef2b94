"""Images: every format and mode gives the same upright RGB image, every defect one line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sage_core.errors import InputError, OptionError
from sage_core.media import Clip, Picture, Sampling, open_media
from tests.core.media_files import card, encoded

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(picture: Picture | Clip) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quarters, row by row."""
    assert isinstance(picture, Picture)
    assert picture.image.mode == "RGB"
    w, h = picture.image.size
    at = [(w // 4, h // 4), (3 * w // 4, h // 4), (w // 4, 3 * h // 4), (3 * w // 4, 3 * h // 4)]
    return [picture.image.getpixel(place) for place in at]  # type: ignore[misc]


def near(found: list[tuple[int, ...]], wanted: list[tuple[int, ...]], within: int = 12) -> bool:
    return bool(np.abs(np.array(found) - np.array(wanted)).max() <= within)


def deep_grey(levels: list[int], mode: str = "I;16") -> Image.Image:
    values = np.array(levels, np.uint16 if mode == "I;16" else np.int32).reshape(2, 2)
    return Image.fromarray(values.repeat(16, 0).repeat(16, 1))


def float_grey(levels: list[float]) -> Image.Image:
    values = np.array(levels, np.float32).reshape(2, 2)
    return Image.fromarray(values.repeat(16, 0).repeat(16, 1))


def palette_with_hole() -> Image.Image:
    image = card().convert("P", palette=Image.Palette.ADAPTIVE)
    image.info["transparency"] = image.getpixel((1, 1))
    return image


def with_alpha(mode: str) -> Image.Image:
    image = card().convert(mode)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, image.width // 2, image.height // 2))
    image.putalpha(alpha)
    return image


def grey_corners(*levels: int) -> list[tuple[int, ...]]:
    return [(level,) * 3 for level in levels]


def deep_colour_png() -> bytes:
    """The card with 16 bits per channel, which Pillow reads but does not write."""
    pixels = np.asarray(card()).astype(">u2") * 257
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def with_key(png: bytes, *key: int) -> bytes:
    """A PNG of 16 bits in which one level or colour is transparent."""
    at = png.index(b"IDAT") - 4
    body = b"tRNS" + b"".join(value.to_bytes(2, "big") for value in key)
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return png[:at] + chunk + png[at:]


PLAIN = [RED, GREEN, BLUE, WHITE]
HOLE = [WHITE, GREEN, BLUE, WHITE]
CASES = {
    "png": (encoded(card(), "PNG"), PLAIN),
    "jpeg": (encoded(card(), "JPEG", quality=95, subsampling=0), PLAIN),
    "webp": (encoded(card(), "WEBP", lossless=True), PLAIN),
    "bmp": (encoded(card(), "BMP"), PLAIN),
    "tiff": (encoded(card(), "TIFF"), PLAIN),
    "tiff lzw": (encoded(card(), "TIFF", compression="tiff_lzw"), PLAIN),
    "gif": (encoded(card(), "GIF"), PLAIN),
    "palette": (encoded(card().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), PLAIN),
    "palette with a transparent colour": (encoded(palette_with_hole(), "PNG"), HOLE),
    "gif with a transparent colour": (encoded(palette_with_hole(), "GIF"), HOLE),
    "alpha on white": (encoded(with_alpha("RGB"), "PNG"), HOLE),
    "alpha in webp": (encoded(with_alpha("RGB"), "WEBP", lossless=True), HOLE),
    "grey and alpha": (encoded(with_alpha("L"), "PNG"), grey_corners(255, 150, 29, 255)),
    "grey": (encoded(card().convert("L"), "PNG"), grey_corners(76, 150, 29, 255)),
    "one bit": (
        encoded(card().convert("L").convert("1", dither=0), "PNG"),
        grey_corners(0, 255, 0, 255),
    ),
    "cmyk jpeg": (encoded(card().convert("CMYK"), "JPEG", quality=95, subsampling=0), PLAIN),
    "cmyk tiff": (encoded(card().convert("CMYK"), "TIFF"), PLAIN),
    "16 bit png": (
        encoded(deep_grey([0, 16384, 32768, 65535]), "PNG"),
        grey_corners(0, 64, 128, 255),
    ),
    "16 bit tiff": (
        encoded(deep_grey([0, 16384, 32768, 65535]), "TIFF"),
        grey_corners(0, 64, 128, 255),
    ),
    "48 bit png": (deep_colour_png(), PLAIN),
    "32 bit tiff": (
        encoded(deep_grey([0, 25700, 51400, 65535], "I"), "TIFF"),
        grey_corners(0, 100, 200, 255),
    ),
    "16 bit png with a transparent level": (
        with_key(encoded(deep_grey([0, 16384, 32768, 65535]), "PNG"), 16384),
        grey_corners(0, 255, 128, 255),
    ),
    "48 bit png with a transparent colour": (
        with_key(deep_colour_png(), 65535, 0, 0),
        HOLE,
    ),
    "float tiff": (
        encoded(float_grey([0.0, 0.25, 0.5, 1.0]), "TIFF"),
        grey_corners(0, 64, 128, 255),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_format_gives_the_same_image(name: str, tmp_path: Path) -> None:
    data, wanted = CASES[name]
    path = tmp_path / "picture.dat"  # the name does not matter
    path.write_bytes(data)
    from_path, from_bytes = open_media(path), open_media(data)
    assert near(corners(from_path), wanted), corners(from_path)
    assert corners(from_bytes) == corners(from_path)
    assert from_path.name == str(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    """A file stored with each orientation opens as the upright card."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = card() if orientation == 1 else card().transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    opened = open_media(encoded(stored, kind, exif=exif, **options))
    assert opened.size == (64, 48)
    assert near(corners(opened), PLAIN, within=30)


def many_texts(info: PngImagePlugin.PngInfo) -> None:
    for n in range(80):
        info.add_text(f"k{n}", "z" * 1_000_000, zip=True)


TEXTS = {
    "compressed": lambda info: info.add_text("workflow", "x" * 3_000_000, zip=True),
    "international": lambda info: info.add_itxt("prompt", "y" * 3_000_000, zip=True),
    "many": many_texts,
}


@pytest.mark.parametrize("animated", [False, True])
@pytest.mark.parametrize("name", [*TEXTS, "profile"])
def test_texts_and_profiles_of_any_size_are_passed_over(name: str, animated: bool) -> None:
    limits = (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    options: dict[str, Any] = {"icc_profile": bytes(2_000_000)}
    if name in TEXTS:
        info = PngImagePlugin.PngInfo()
        TEXTS[name](info)
        options = {"pnginfo": info}
    if animated:
        options |= {"save_all": True, "append_images": [Image.new("RGB", (64, 48))]}
    opened = open_media(encoded(card(), "PNG", **options))
    if animated:
        assert isinstance(opened, Clip)
        assert np.array_equal(opened.frames[0], np.asarray(card()))
    else:
        assert corners(opened) == PLAIN
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


def mistyped_exif() -> bytes:
    """The width as text, then orientation 6."""
    entries = [(0x100, 2, 4, b"40px"), (0x112, 3, 1, b"\x06\0\0\0")]
    packed = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


@pytest.mark.parametrize(
    ("kind", "exif", "size"),
    [
        ("JPEG", mistyped_exif(), (48, 64)),
        ("WEBP", mistyped_exif(), (48, 64)),
        ("PNG", mistyped_exif(), (48, 64)),
        ("JPEG", b"Exif\0\0no EXIF at all", (64, 48)),
        ("WEBP", b"no EXIF at all", (64, 48)),
        ("PNG", b"Exif\0\0no EXIF at all", (64, 48)),
        ("JPEG", mistyped_exif()[:30], (64, 48)),
    ],
)
def test_damaged_exif_is_no_damage_of_the_image(
    kind: str, exif: bytes, size: tuple[int, int]
) -> None:
    assert open_media(encoded(card(), kind, exif=exif)).size == size


def tiff_of(*kinds: int) -> bytes:
    """Pages, each with a NewSubfileType: 0 page, 1 smaller copy."""
    pages = [card() for _ in kinds]
    for page, kind in zip(pages, kinds, strict=True):
        page.encoderinfo = {"tiffinfo": {254: kind}}
    return encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])


@pytest.mark.parametrize(
    ("kinds", "note"),
    [
        ((0,), ""),
        ((0, 0, 0), "page 1 of 3: the other pages are not read"),
        ((0, 1, 1), ""),
        ((0, 1, 0), "page 1 of 2: the other pages are not read"),
    ],
)
def test_further_pages_of_a_tiff_are_said(kinds: tuple[int, ...], note: str) -> None:
    picture = open_media(tiff_of(*kinds))
    assert corners(picture) == PLAIN
    assert picture.note == note


def test_pillow_images_and_open_files_are_accepted() -> None:
    assert corners(open_media(card())) == PLAIN
    assert corners(open_media(io.BytesIO(encoded(card(), "PNG")))) == PLAIN
    already = open_media(card(), name="mine")
    assert open_media(already) is already
    assert already.name == "mine"


def test_max_pixels_keeps_the_aspect_ratio() -> None:
    small = open_media(card(400, 200), Sampling(max_pixels=20_000))
    assert small.size == (200, 100)
    assert open_media(card(400, 200), Sampling(max_pixels=80_000)).size == (400, 200)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_a_clip(kind: str) -> None:
    frames = [Image.new("RGB", (32, 24), (20 * i, 20 * i, 20 * i)) for i in range(10)]
    data = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], duration=200, lossless=True
    )
    clip = open_media(data, Sampling(frames=4))
    assert isinstance(clip, Clip)
    assert clip.frames.shape == (4, 24, 32, 3)
    assert clip.frames.dtype == np.uint8
    assert [round(float(f.mean()) / 20) for f in clip.frames] == [0, 3, 6, 9]
    assert clip.timestamps == pytest.approx([0.0, 0.6, 1.2, 1.8])
    assert clip.duration == pytest.approx(2.0)
    assert clip.fps == pytest.approx(5.0)


def noisy_png() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    return encoded(Image.fromarray(noise), "PNG")


def noisy(kind: str, **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    return encoded(Image.fromarray(noise), kind, **options)


def huge_png() -> bytes:
    """A header of 100,000 by 100,000 pixels."""
    data = bytearray(encoded(Image.new("RGB", (1, 1)), "PNG"))
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def huge_bmp() -> bytes:
    data = bytearray(encoded(Image.new("RGB", (1, 1)), "BMP"))
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    return bytes(data)


def with_broken_chunk() -> bytes:
    data = bytearray(noisy_png())
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


BROKEN = {
    "empty": (b"", "empty"),
    "truncated png": (noisy_png()[:3000], "corrupt or truncated"),
    "truncated jpeg": (noisy("JPEG")[:1500], "corrupt or truncated"),
    "truncated webp": (noisy("WEBP")[:1500], "corrupt"),
    "truncated bmp": (noisy("BMP")[:5000], "corrupt or truncated"),
    "truncated tiff": (noisy("TIFF")[:5000], "corrupt"),
    "truncated gif": (noisy("GIF")[:2000], "corrupt or truncated"),
    "png header only": (noisy_png()[:20], "corrupt"),
    "damaged png": (with_broken_chunk(), "corrupt"),
    "huge png": (huge_png(), "exceeds 178 megapixels"),
    "huge bmp": (huge_bmp(), "exceeds 178 megapixels"),
    "aspect ratio": (encoded(Image.new("RGB", (5000, 3)), "PNG"), "aspect ratio exceeds 200:1"),
    "text": (b"just some words\nand more of them\n", "is text"),
    "umlauts": ("größer als gedacht".encode(), "is text"),
    "words that begin like a bitmap": (b"BMW is a car maker, not a picture", "is text"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "document"),
    "zip": (b"PK\x03\x04" + bytes(60), "archive"),
    "mp3": (b"ID3\x04" + bytes(60), "audio only"),
    "wav": (b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(30), "audio only"),
    "noise": (bytes(range(128, 256)) * 4, "unsupported image or video format"),
    "zeros": (bytes(1000), "unsupported image or video format"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("extension", ["png", "mp4"])
def test_each_defect_is_one_clear_line(name: str, extension: str, tmp_path: Path) -> None:
    data, says = BROKEN[name]
    path = tmp_path / f"input.{extension}"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(InputError) as caught:
            open_media(source, name=f"input.{extension}")
        message = str(caught.value)
        assert message.startswith(f"input.{extension}: ")
        assert says in message
        assert "\n" not in message
        assert len(message) < 200


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_media(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a directory"):
        open_media(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        open_media("a\0b.png")
    with pytest.raises(InputError, match="cannot be read"):
        open_media("x" * 5000)
    with pytest.raises(InputError, match="unsupported input type float"):
        open_media(3.5)  # type: ignore[arg-type]


def test_a_file_without_read_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, as root can read every file."""
    path = tmp_path / "mine.png"
    path.write_bytes(encoded(card(), "PNG"))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"mine\.png: permission denied"):
        open_media(path)


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 0},
        {"frames": 2.5},
        {"frames": True},
        {"fps": 0},
        {"fps": float("nan")},
        {"fps": "fast"},
        {"frames": 4, "fps": 1.0},
        {"start": -1},
        {"end": 0},
        {"start": 2, "end": 2},
        {"max_pixels": 0},
    ],
    ids=str,
)
def test_invalid_sampling_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        Sampling(**options)  # type: ignore[arg-type]

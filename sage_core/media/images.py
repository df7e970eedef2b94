"""Images by Pillow: any common format becomes one upright RGB image, an animation a clip."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from sage_core.errors import InputError
from sage_core.media.animations import hidden_frames, read_animation
from sage_core.media.colours import to_rgb, to_srgb
from sage_core.media.frame_sampling import LARGE, MAX_PIXELS, check_size
from sage_core.media.types import Clip, Picture, Sampling, fit

COMMON = ("PNG", "JPEG", "GIF", "BMP", "PPM", "DIB")
"""Pillow's names of the formats that it knows without loading all of its modules."""
LEFT_OUT = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "FPX", "MIC", "MPEG", "FLI", "IPTC", "MCIDAS")
"""Pillow's formats that start other programs, need other packages or are videos."""
WITHOUT_SIGNATURE = ("TGA", "IM", "SPIDER")
"""Formats that Pillow knows by plausible values, so that other files may be taken for them."""
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
PAGED = ("TIFF", "DCX")
COSTLY = ("WEBP", "AVIF", "HEIF", "JXL")
"""Formats whose decoders take some 20 bytes of memory for a pixel."""
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
MARGIN = 2
"""A decoder that shrinks leaves this many times the wanted width, so that resizing is smooth."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""


def read_picture(
    source: Path | bytes, sampling: Sampling, name: str, signed: bool = True
) -> Picture | Clip | None:
    """Decode an image file; an animation becomes a clip. None if it is not one for Pillow.

    ``signed`` are the formats with a signature, else those of `WITHOUT_SIGNATURE`.

    Raises:
        InputError: corrupt, truncated or too large.
    """
    with _as_input_errors(name):
        try:
            return _read(source, sampling, name, signed)
        except ValueError as error:
            if "MAX_TEXT" not in str(error):  # Pillow's limits of text and colour profiles in PNG
                raise
            return _read(_without_text(source), sampling, name, signed)


def is_picture(source: Path | bytes) -> bool:
    """Whether Pillow knows the format of a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = _identified(source, True) or _identified(source, False)
        except Exception:  # known, but too large: decoding says so
            return True
        if image is not None:
            image.close()
        return image is not None


def from_image(image: Image.Image, sampling: Sampling, name: str, note: str = "") -> Picture:
    """A Pillow image of any mode as an upright RGB `Picture`, no larger than ``max_pixels``.

    One of more than `LARGE` pixels is reduced by a whole factor.
    """
    check_size(*image.size, name)
    with _as_input_errors(name):
        image.load()
        turn = TURNS.get(_orientation(image))
        profile = image.info.get("icc_profile") if image.mode.startswith("RGB") else None
        rgb = to_rgb(image, _factor(image.size, sampling.max_pixels))
        if turn is not None:
            rgb = rgb.transpose(turn)
        return Picture(to_srgb(_shrunk(rgb, sampling.max_pixels), profile), name, note)


def _read(
    source: Path | bytes, sampling: Sampling, name: str, signed: bool
) -> Picture | Clip | None:
    image = _identified(source, signed)
    if image is None:
        return None
    with image:
        if image.format == "JPEG" and _is_motion(source):
            return None
        check_size(*image.size, name)
        if image.format in COSTLY and image.width * image.height > LARGE:
            raise InputError(
                f"{name}: {image.width}x{image.height} exceeds {LARGE // 10**6} megapixels, the "
                f"limit of {image.format} images: shrink it"
            )
        if image.format in ANIMATED:
            frames = getattr(image, "n_frames", 1) - hidden_frames(image)
            if frames > 1:
                return read_animation(image, source, sampling, name)
            image.seek(hidden_frames(image))
        note = _note(image) if image.format in PAGED else ""
        if image.format == "HEIF" and (count := getattr(image, "n_frames", 1)) > 1:
            note = f"the primary one of {count} images: the others are not read"
        _decode_small(image, sampling.max_pixels)
        return from_image(image, sampling, name, note)


def _identified(source: Path | bytes, signed: bool) -> Image.Image | None:
    """The opened image, not yet decoded."""

    def opened(formats: tuple[str, ...]) -> Image.Image | None:
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        try:
            return Image.open(stream, formats=formats)
        except (Image.DecompressionBombError, MemoryError):
            raise
        except Exception as error:  # not identified, or its header is damaged
            if "MAX_TEXT" in str(error):
                raise
            return None

    if signed and (image := opened(COMMON)) is not None:
        return image
    Image.init()
    known = [kind for kind in Image.ID if kind not in (*COMMON, *LEFT_OUT)]
    return opened(tuple(kind for kind in known if (kind in WITHOUT_SIGNATURE) is not signed))


def _is_motion(source: Path | bytes) -> bool:
    """Whether a file is a stream of JPEG images, as cameras send: three or more, for FFmpeg.

    A second one is rather a preview or a map of depth or brightness.
    """
    data = source.read_bytes() if isinstance(source, Path) else source
    if data.count(b"\xff\xd9\xff\xd8") < 2:  # end of an image, begin of an image
        return False
    from sage_core.media.video import is_video

    return is_video(data)


def _without_text(source: Path | bytes) -> bytes:
    """A PNG without texts and colour profile, which are not used here."""
    data = source.read_bytes() if isinstance(source, Path) else source
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in PNG_TEXTS:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none that can be read."""
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1  # the decoder has applied the one that counts, which is not that of EXIF
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF raises many types, and is no damage of the image
        return 1


def _note(image: Image.Image) -> str:
    """Says that there are further pages, other than smaller copies and masks of the first."""
    pages = 1
    for index in range(1, getattr(image, "n_frames", 1)):
        image.seek(index)
        kind = getattr(image, "tag_v2", {}).get(254, 0)  # NewSubfileType
        pages += not (isinstance(kind, int) and kind & 5)
    image.seek(0)
    return f"page 1 of {pages}: the other pages are not read" if pages > 1 else ""


def _factor(size: tuple[int, int], max_pixels: int | None) -> int:
    """By how much to divide width and height before resizing: a whole number."""
    width, height = size
    factor = 1
    while -(-width // factor) * -(-height // factor) > LARGE:
        factor += 1
    return max(factor, width // (MARGIN * fit(width, height, max_pixels)[0]))


def _decode_small(image: Image.Image, max_pixels: int | None) -> None:
    """Have the decoders of JPEG and JPEG 2000 shrink where less is wanted."""
    factor = _factor(image.size, max_pixels)
    if factor == 1:
        return
    if image.format == "JPEG2000":
        levels = _levels(image)
        image.reduce = min(factor.bit_length() - 1, levels)  # type: ignore[method-assign,assignment]
    else:
        image.draft(None, (-(-image.width // factor), -(-image.height // factor)))


def _levels(image: Image.Image) -> int:
    """How many times a JPEG 2000 image can be halved: the levels in its COD marker."""
    file = getattr(image, "fp", None)
    if file is None:
        return 0
    file.seek(0)
    head = file.read(1 << 16)
    at = head.find(b"\xff\x52")
    return int(head[at + 9]) if 0 <= at < len(head) - 9 else 0


def _shrunk(image: Image.Image, max_pixels: int | None) -> Image.Image:
    size = fit(*image.size, max_pixels)
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


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
    except Exception as error:  # Pillow's plugins raise many types on corrupt data
        raise InputError(
            f"{name}: the image is corrupt or truncated ({_short(error)}): get a complete copy"
        ) from error


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 80 else text[:77] + "..."

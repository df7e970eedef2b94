"""Pillow's plugins for HEIC and JPEG XL, registered when a file needs one (extra ``formats``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from sage_core.errors import InputError

_JXL_STREAM = b"\xff\x0a"
_JXL_CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"heif")
_SHARED_BRANDS = (b"mif1", b"msf1")
"""Of HEIC and AVIF: the compatible brands tell which."""
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Width to height, by the number in a JPEG XL header."""


@dataclass(frozen=True)
class Plugin:
    """A package that adds a format to Pillow."""

    format: str
    module: str
    register: Callable[[], None]

    @property
    def installed(self) -> bool:
        return find_spec(self.module) is not None

    def require(self, name: str) -> None:
        """Raises:
        InputError: the package is not installed.
        """
        if not self.installed:
            raise InputError(
                f"{name}: {self.format} needs the extra 'formats': pip install 'sage-vlm[formats]'"
            )


def plugin_for(head: bytes) -> Plugin | None:
    """The plugin for the file that begins with ``head``; None if Pillow needs none."""
    if head.startswith((_JXL_STREAM, _JXL_CONTAINER)):
        return Plugin("JPEG XL", "pillow_jxl", _register_jxl)
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        others = head[16 : max(16, min(int.from_bytes(head[:4], "big"), 256))]
        if brand in _HEIF_BRANDS or (brand in _SHARED_BRANDS and b"avi" not in others):
            return Plugin("HEIC", "pillow_heif", _register_heif)
    return None


def _register_heif() -> None:
    import pillow_heif

    # Threads reserve address space, which is limited where files are decoded.
    pillow_heif.register_heif_opener(thumbnails=False, decode_threads=1)


def _register_jxl() -> None:
    from pillow_jxl import JpegXLImagePlugin

    JpegXLImagePlugin.DECODE_THREADS = 0


def declared_size(head: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG XL file by its header; None for others and unusual files.

    Its plugin decodes the whole image when it opens it, so a size must be refused before.
    """
    if head.startswith(_JXL_CONTAINER):
        at = head.find(_JXL_STREAM)  # of the box jxlc, or the first jxlp
        if at < 0 or b"jxl" not in head[max(0, at - 8) : at]:
            return None
        head = head[at:]
    if not head.startswith(_JXL_STREAM):
        return None
    return _size_header(int.from_bytes(head[2:18], "little"))


def _size_header(bits: int) -> tuple[int, int]:
    """The SizeHeader of ISO/IEC 18181-1, whose bits come lowest first."""

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = take(3)
    if not ratio:
        return side(), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height

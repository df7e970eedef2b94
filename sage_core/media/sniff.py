"""What a file may be by its first bytes: which library is asked first, and what a refusal says.

Pillow and FFmpeg decide. Neither is asked about documents and archives, nor FFmpeg about text.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["picture", "video", "sound", "text", "document", "archive", "unknown"]

HEAD = 4096
"""Bytes from the beginning of a file that `kind_of` uses."""

_PICTURES = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"qoif"),
    *(b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+", b"\x00\x00\x01\x00"),
    *(b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    *(b"\x00\x00\x00\x0cJXL \r\n\x87\n", b"\xff\x0a"),
)
_VIDEOS = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"\x00\x00\x01\xba",  # MPEG program stream
    b"\x00\x00\x01\xb3",  # MPEG-1/2 video
    b"0&\xb2u\x8ef\xcf\x11",  # ASF, WMV
    b"DKIF",  # IVF
    b".RMF",
)
_SOUNDS = (b"ID3", b"fLaC", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xf1", b"FORM")
_DOCUMENTS = (b"%PDF", b"%!PS", b"{\\rtf", b"\xd0\xcf\x11\xe0")
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd")
_STILL_BRANDS = (
    *(b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"heif", b"mif1", b"msf1"),
    *(b"hevc", b"hevx", b"hevm", b"hevs"),
)
_SOUND_BRANDS = (b"M4A ", b"M4B ", b"M4P ")
_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def kind_of(head: bytes) -> Kind:
    """The likely kind of the file that begins with ``head`` (its first `HEAD` bytes, or all)."""
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in _STILL_BRANDS:
            return "picture"
        return "sound" if brand in _SOUND_BRANDS else "video"
    if head[4:8] in _ATOMS:
        return "video"
    if head[:4] == b"RIFF":
        return {b"AVI ": "video", b"WAVE": "sound", b"WEBP": "picture"}.get(head[8:12], "unknown")  # type: ignore[return-value]
    if head[:4] == b"OggS":
        return "video" if b"theora" in head[:256] else "sound"
    for first, step in ((0, 188), (4, 192)):  # packets of MPEG-TS and of M2TS
        if head[first : first + 2 * step + 1 : step] == b"GGG":
            return "video"
    tables: dict[Kind, tuple[bytes, ...]] = {
        **{"picture": _PICTURES, "video": _VIDEOS, "document": _DOCUMENTS},
        **{"archive": _ARCHIVES, "sound": _SOUNDS},
    }
    # BM may begin a text; the reserved bytes of a bitmap's header are zero.
    bitmap = len(head) >= 18 and head[6:10] == bytes(4)
    for kind, magics in tables.items():
        if head.startswith(magics) and (bitmap or not head.startswith(b"BM")):
            return kind
    return "text" if _is_text(head) else "unknown"


def _is_text(head: bytes) -> bool:
    if b"\x00" in head or not head:
        return False
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not just a character truncated at the end
            return False
        text = head[: error.start].decode("utf-8")
    return all(c.isprintable() or c in "\r\n\t\f" for c in text)


def missing_bytes(head: bytes, total: int) -> int:
    """Bytes that a Matroska or AVI file lacks according to its header, 0 if none or unknown.

    ``head`` is the beginning of the file, ``total`` its size. Decoders accept a truncated file of
    these formats as a shorter video.
    """
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return max(0, int.from_bytes(head[4:8], "little") + 8 - total)
    if not head.startswith(b"\x1aE\xdf\xa3"):
        return 0
    # The sizes of the EBML header and the Segment (RFC 8794, section 6).
    size, at = _vint(head, 4)
    if size is None or head[at + size : at + size + 4] != b"\x18S\x80g":
        return 0
    size, at = _vint(head, at + size + 4)
    return 0 if size is None else max(0, at + size - total)


def _vint(data: bytes, at: int) -> tuple[int | None, int]:
    """The variable-length integer at ``at`` (None: unknown size) and the offset of its end."""
    if at >= len(data) or data[at] == 0:
        return None, at
    length = 9 - data[at].bit_length()
    raw = int.from_bytes(data[at : at + length], "big")
    value = raw & ((1 << (7 * length)) - 1)
    return (None if value == (1 << (7 * length)) - 1 else value), at + length

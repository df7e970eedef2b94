"""The tracks of Matroska and WebM files (EBML, RFC 8794; Matroska, RFC 9559)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from sage_core.media.containers.tracks import Track

MAGIC = b"\x1aE\xdf\xa3"
_SEGMENT, _TRACKS, _ENTRY, _CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0x1F43B675
_TYPE, _CODEC = 0x83, 0x86
_VIDEO = b"\x01"

LARGEST_TRACKS = 16 * 2**20
CLOSED = (b"V_VP8", b"V_VP9", b"V_MJPEG")
"""Codecs that show frames in the order of the file, so that every keyframe is a safe start."""


def read_tracks(file: BinaryIO, size: int) -> tuple[Track, ...]:
    """The tracks in their order; none if they do not come before the frames.

    Raises:
        ValueError: the elements make no sense.
    """
    at, end = 0, size
    while at < end:
        file.seek(at)
        head = file.read(12)
        kind, start = _number(head, 0, keep_marker=True)
        length, start = _number(head, start)
        unknown = length == (1 << 7 * (start - _width(kind))) - 1
        if kind == _SEGMENT:
            at += start  # its children follow
            continue
        if kind == _CLUSTER or unknown:
            return ()
        if kind == _TRACKS:
            file.seek(at + start)
            entries = _elements(file.read(min(length, LARGEST_TRACKS)))
            return tuple(_track(body) for kind, body in entries if kind == _ENTRY)
        at += start + length
    return ()


def _track(entry: bytes) -> Track:
    fields = dict(_elements(entry))
    if fields.get(_TYPE, b"").lstrip(b"\0") != _VIDEO:
        return Track(video=False)
    return Track(video=True, closed=fields.get(_CODEC, b"").rstrip(b"\0") in CLOSED)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Id and body of each element in ``data``."""
    at = 0
    while at < len(data):
        kind, at = _number(data, at, keep_marker=True)
        length, at = _number(data, at)
        yield kind, data[at : at + length]
        at += length


def _number(data: bytes, at: int, keep_marker: bool = False) -> tuple[int, int]:
    """A number of variable length and where it ends; ids keep the bit that tells the length."""
    if data[at] == 0:
        raise ValueError("a number of more than eight bytes")
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big")
    return (value if keep_marker else value & ((1 << 7 * length) - 1)), at + length


def _width(kind: int) -> int:
    return (kind.bit_length() + 7) // 8

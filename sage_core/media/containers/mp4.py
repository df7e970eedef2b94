"""The tracks of MP4, MOV and 3GP files: handlers, matrices and sample tables (ISO 14496-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from sage_core.media.containers.tracks import UPRIGHT, Stamps, Track, Turn

FIRST = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
"""Boxes that files without ``ftyp`` begin with."""

LARGEST_MOOV = 256 * 2**20
MOST_KEYS = 20_000
MOST_UNITS = 64
MOST_SAMPLES = 10_000_000
"""Headers that claim more are not believed: memory would go."""


def read_tracks(file: BinaryIO, size: int) -> tuple[Track, ...]:
    """The tracks in their order; none if there is no ``moov`` box.

    Raises:
        ValueError: the boxes make no sense.
    """
    moov = _find_moov(file, size)
    if moov is None:
        return ()
    fragmented = _child(moov, b"mvex") is not None
    scale = _scale(_child(moov, b"mvhd"))
    traks = [body for kind, body in _boxes(moov) if kind == b"trak"]
    return tuple(_track(file, trak, fragmented, scale) for trak in traks)


def _find_moov(file: BinaryIO, size: int) -> bytes | None:
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length, kind = struct.unpack(">I4s", head[:8])
        start = 8
        if length == 1 and len(head) == 16:
            length, start = int.from_bytes(head[8:], "big"), 16
        length = length or size - at
        if length < start:
            return None
        if kind == b"moov":
            file.seek(at + start)
            return file.read(length - start) if length <= LARGEST_MOOV else None
        at += length
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each box in ``data``."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        start = 8
        if length == 1 and at + 16 <= len(data):
            length, start = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        length = length or len(data) - at
        if length < start:
            raise ValueError("a box that is shorter than its head")
        yield kind, data[at + start : at + length]
        at += length


def _child(data: bytes, *path: bytes) -> bytes | None:
    """The body of the first box at ``path`` below ``data``."""
    for wanted in path:
        found = next((body for kind, body in _boxes(data) if kind == wanted), None)
        if found is None:
            return None
        data = found
    return data


def _track(file: BinaryIO, trak: bytes, fragmented: bool, movie_scale: int) -> Track:
    handler = _child(trak, b"mdia", b"hdlr")
    if handler is None or handler[8:12] != b"vide":
        return Track(video=False)
    head = _child(trak, b"tkhd")
    turn = UPRIGHT if head is None else _turn(head)
    tables = _child(trak, b"mdia", b"minf", b"stbl")
    edits = _child(trak, b"edts", b"elst")
    if tables is None or fragmented:
        return Track(True, turn, edited=_edit(edits)[0] is None)
    boxes = dict(_boxes(tables))
    order, last = _shown(boxes)
    keys = _keys(boxes, len(order))
    starts, sizes = _places(boxes)
    end = int(np.max(starts + sizes, initial=0))
    if keys is None or not len(keys) or not len(order):
        return Track(True, turn, edited=edits is not None, end=end)
    stamps = _stamps(trak, order, keys, last, movie_scale)
    closed = stamps is not None and _is_closed(order, keys)
    if closed and boxes.get(b"stsd", b"")[12:16] in (b"avc1", b"avc3"):
        closed = len(starts) == len(order) and _all_clear(file, boxes[b"stsd"], starts[keys])
    return Track(True, turn, closed, stamps, stamps is None and edits is not None, end)


def _stamps(
    trak: bytes, order: np.ndarray, keys: np.ndarray, last: int, movie_scale: int
) -> Stamps | None:
    """When the frames are shown; None if an edit list leaves some of them out."""
    scale = _scale(_child(trak, b"mdia", b"mdhd"))
    shown = np.sort(order)
    start, length = _edit(_child(trak, b"edts", b"elst"))
    end = int(shown[-1]) + last
    if not scale or not movie_scale or start is None or shown[0] < start:
        return None
    if length and start / scale + length / movie_scale < shown[-1] / scale:
        return None
    return Stamps(shown - start, np.sort(order[keys]) - start, end - start, scale)


def _turn(tkhd: bytes) -> Turn:
    """From the matrix, which maps (x, y) to (a x + c y, b x + d y), y pointing down."""
    at = 4 + (20 if tkhd[0] == 0 else 32) + 16
    a, b, _, c, d = struct.unpack_from(">5i", tkhd, at)
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    if abs(a) >= abs(b):
        return Turn(0 if a >= 0 else 2, mirrored)
    return Turn(1 if b > 0 else 3, mirrored)


def _table(box: bytes | None, columns: int, start: int = 8) -> np.ndarray:
    """int64 of shape (entries, columns) from a box's list of unsigned 32-bit numbers."""
    if box is None:
        return np.zeros((0, columns), np.int64)
    count = int.from_bytes(box[start - 4 : start], "big")
    if count * columns * 4 > len(box) - start:
        raise ValueError("a table that is longer than its box")
    numbers = np.frombuffer(box, ">u4", count * columns, start)
    return numbers.astype(np.int64).reshape(count, columns)


def _expanded(runs: np.ndarray) -> np.ndarray:
    """Run lengths (count, value) as one value for each sample."""
    if runs[:, 0].sum() > MOST_SAMPLES:
        raise ValueError("more samples than can be")
    return np.repeat(runs[:, 1], runs[:, 0])


def _shown(boxes: dict[bytes, bytes]) -> tuple[np.ndarray, int]:
    """When each sample is shown, in the order of the file, and for how long the last one is."""
    lengths = _expanded(_table(boxes.get(b"stts"), 2))
    shown = np.cumsum(lengths) - lengths
    if b"ctts" in boxes:
        offsets = _expanded(_table(boxes[b"ctts"], 2))
        if len(offsets) != len(shown):
            raise ValueError("tables of different lengths")
        shown = shown + offsets.astype(np.int32)  # signed, whatever the version says
    return shown, int(lengths[-1]) if len(lengths) else 0


def _keys(boxes: dict[bytes, bytes], samples: int) -> np.ndarray | None:
    """Indices of the samples where a decoder may start; None where it cannot be told."""
    if b"sbgp" in boxes and boxes[b"sbgp"][4:8] == b"rap ":
        return None
    if b"stss" not in boxes:
        return np.arange(samples)
    keys = np.concatenate([_table(boxes.get(kind), 1)[:, 0] - 1 for kind in (b"stss", b"stps")])
    if len(keys) and (keys.min() < 0 or keys.max() >= samples):
        raise ValueError("a keyframe that is no sample")
    return np.unique(keys)


def _is_closed(order: np.ndarray, keys: np.ndarray) -> bool:
    """True if no sample that comes after a keyframe is shown before it."""
    earliest_from_here = np.minimum.accumulate(order[::-1])[::-1]
    return bool(len(keys)) and bool(np.all(earliest_from_here[keys] >= order[keys]))


def _scale(head: bytes | None) -> int:
    """Units a second, from ``mvhd`` or ``mdhd``; 0 if unknown."""
    if head is None:
        return 0
    at = 12 if head[0] == 0 else 20
    return int.from_bytes(head[at : at + 4], "big")


def _edit(edits: bytes | None) -> tuple[int | None, int]:
    """Where the media begins to be shown, and for how long (0: all); None if that is involved."""
    if edits is None:
        return 0, 0
    if int.from_bytes(edits[4:8], "big") != 1:
        return None, 0
    length, start = struct.unpack_from(">Ii" if edits[0] == 0 else ">Qq", edits, 8)
    return (start, length) if start >= 0 else (None, 0)


def _places(boxes: dict[bytes, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Where each sample lies in the file, and its bytes: int64 of shape (samples,) each."""
    box = boxes.get(b"stsz", bytes(12))
    same, count = struct.unpack_from(">II", box, 4)
    if count > MOST_SAMPLES:
        raise ValueError("more samples than can be")
    sizes = np.full(count, same) if same else _table(box, 1, 12)[:, 0]
    if b"co64" in boxes:
        wide = _table(boxes[b"co64"], 2)
        chunks = (wide[:, 0] << 32) + wide[:, 1]
    else:
        chunks = _table(boxes.get(b"stco"), 1)[:, 0]
    runs = _table(boxes.get(b"stsc"), 3)  # from this chunk on, counted from 1: so many samples
    if not len(runs) or not len(chunks) or not count:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    numbers = np.arange(1, len(chunks) + 1)
    held = runs[np.searchsorted(runs[:, 0], numbers, side="right") - 1, 1]
    first = np.minimum(np.concatenate([[0], np.cumsum(held)]), count)  # sample of each chunk
    before = np.concatenate([[0], np.cumsum(sizes)])  # bytes before each sample
    chunk = np.repeat(np.arange(len(chunks)), np.diff(first))
    samples = np.arange(len(chunk))
    return chunks[chunk] + before[samples] - before[first[chunk]], sizes[samples]


def _all_clear(file: BinaryIO, description: bytes, starts: np.ndarray) -> bool:
    """True if all H.264 keyframes at ``starts`` clear the decoder (IDR), as MP4 wants of them.

    Some are mere points of recovery: with a periodic refresh nothing is whole until later.
    """
    if len(starts) > MOST_KEYS:
        return False
    at = description.find(b"avcC")
    width = (description[at + 8] & 3) + 1 if 0 < at < len(description) - 8 else 4
    return all(_is_clear(file, int(start), width) for start in starts)


def _is_clear(file: BinaryIO, at: int, width: int) -> bool:
    """Pass over a sample's units (H.264, table 7-1) up to its first slice."""
    for _ in range(MOST_UNITS):
        file.seek(at)
        head = file.read(width + 1)
        if len(head) <= width:
            return False
        kind = head[width] & 31
        if 1 <= kind <= 5:
            return kind == 5
        at += width + int.from_bytes(head[:width], "big")
    return False

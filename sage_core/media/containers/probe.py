"""What a container says of its tracks, read from its headers before anything is decoded.

Decoders are told too little by their own APIs: whether a picture track is a cover, which way is up,
whether a keyframe is a safe place to start. MP4 and MOV (ISO 14496-12) say all of it, Matroska
(RFC 9559) some. What cannot be read here is unknown, never an error: the decoders judge damage.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from sage_core.media.containers import matroska
from sage_core.media.containers import mp4 as isobmff
from sage_core.media.containers.tracks import Track

Kind = Literal["iso", "matroska", "other"]


@dataclass(frozen=True)
class Facts:
    """The container and its tracks in the file's order; no tracks where they are unknown."""

    kind: Kind
    tracks: tuple[Track, ...] = ()
    size: int = 0
    """Bytes of the whole file."""

    @property
    def without_pictures(self) -> bool:
        """True if every track is known and none is video; a cover is no track."""
        return bool(self.tracks) and not any(track.video for track in self.tracks)

    @property
    def video(self) -> Track | None:
        """The only video track; None if there are several or none is known."""
        found = [track for track in self.tracks if track.video]
        return found[0] if len(found) == 1 else None

    @property
    def missing_bytes(self) -> int:
        """Bytes that the video track should have beyond the end of the file."""
        ends = [track.end for track in self.tracks if track.video]
        return max([0, *(end - self.size for end in ends)])


def inspect(source: Path | bytes) -> Facts:
    """Read the headers of a video file.

    Raises:
        OSError: the file cannot be read any more.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        kind = _kind(file.read(12))
        file.seek(0)
        return Facts(kind, _tracks(kind, file, size), size)


def _kind(head: bytes) -> Kind:
    if head[4:8] == b"ftyp" or head[4:8] in isobmff.FIRST:
        return "iso"
    return "matroska" if head.startswith(matroska.MAGIC) else "other"


def _tracks(kind: Kind, file: BinaryIO, size: int) -> tuple[Track, ...]:
    try:
        if kind == "iso":
            return isobmff.read_tracks(file, size)
        return matroska.read_tracks(file, size) if kind == "matroska" else ()
    except (
        ValueError,
        IndexError,
        OverflowError,
        struct.error,
    ):
        return ()  # damage: the decoders say which

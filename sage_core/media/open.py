"""Opening one input: Pillow or FFmpeg knows its format from its content, and decodes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sage_core.errors import InputError
from sage_core.media.sniff import HEAD, kind_of, missing_bytes
from sage_core.media.types import Clip, Picture, Sampling

if TYPE_CHECKING:
    from PIL import Image

    Source = str | Path | bytes | Image.Image | BinaryIO | Picture | Clip

_ADVICE = {
    "picture": "the image is corrupt or of an unsupported format: convert it to PNG",
    "sound": "is audio only: give an image or a video",
    "text": "is text, not an image or a video: check the path",
    "document": "is a document: export the page as an image first",
    "archive": "is an archive: extract it first",
    "unknown": "unsupported image or video format: convert it to PNG or MP4",
}
"""By `sniff.kind_of` a file that neither library knows."""
_NEITHER = ("document", "archive")
_PROBED = 2**20
"""Bytes of a file in which `is_media` lets FFmpeg look for a video."""


def open_media(
    source: Source, sampling: Sampling | None = None, name: str | None = None
) -> Picture | Clip:
    """Open an image or a video.

    ``source`` is a path, the file's bytes, an open binary file, a Pillow image, or the result of
    an earlier call, which is returned as it is. The format is found from the content, never from
    the name. ``name`` stands for the file in messages and results; the default is the path.

    Raises:
        InputError: missing, a directory, not readable, empty, corrupt, truncated, too large, of an
            unsupported format, or the sampling lies outside the video. One line with ``name``.
    """
    sampling = sampling or Sampling()
    if isinstance(source, Picture | Clip):
        return source
    if isinstance(source, str | os.PathLike):
        path, name = Path(source), name or os.fspath(source)
        if (found := _head(path, name)) is not None:
            return _decode(path, *found, sampling, name)
        with _read_errors(name):
            source = path.read_bytes()
    if isinstance(source, bytes | bytearray | memoryview):
        data, name = bytes(source), name or "<bytes>"
        return _decode(data, data[:HEAD], len(data), sampling, name)
    if hasattr(source, "read"):
        return open_media(source.read(), sampling, name or str(getattr(source, "name", "<file>")))
    if hasattr(source, "getexif"):  # a Pillow image, asked without importing Pillow
        from sage_core.media.images import from_image

        return from_image(source, sampling, name or getattr(source, "filename", "") or "<image>")
    raise InputError(
        f"unsupported input type {type(source).__name__}: give a path, bytes, a binary file or a "
        "Pillow image"
    )


def check_media(source: Path | bytes, name: str) -> None:
    """Refuse a file that `open_media` cannot open, as far as its beginning tells.

    A pipe or device is not read. ``source`` may also be all of the file's bytes.

    Raises:
        InputError: missing, a directory, not readable, empty, or of an unsupported format.
    """
    head = source[:HEAD] if isinstance(source, bytes) else (_head(source, name) or (None,))[0]
    if head is None:
        return
    if not head:
        raise InputError(f"{name}: the file is empty")
    if not _is_known(source, head):
        raise InputError(f"{name}: {_ADVICE[kind_of(head)]}")


def is_media(path: Path) -> bool:
    """Whether a file is an image or a video by its content; hidden files are neither."""
    if path.name.startswith(".") or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        return bool(head) and _is_known(path, head)
    except OSError:
        return False


def _is_known(source: Path | bytes, head: bytes) -> bool:
    """Whether one of the libraries is likely to know the format; neither is asked if clear."""
    kind = kind_of(head)
    if kind in ("picture", "video"):
        return True
    if kind in _NEITHER:
        return False
    from sage_core.media.images import is_picture

    if is_picture(source):
        return True
    if kind == "text":
        return False
    from sage_core.media.video import is_video

    if isinstance(source, bytes):
        return is_video(source[:_PROBED])
    with source.open("rb") as file:
        return is_video(file.read(_PROBED))


def _head(path: Path, name: str) -> tuple[bytes, int] | None:
    """A file's first bytes and its length; None for a pipe or a device, which cannot rewind."""
    with _read_errors(name):
        if path.is_dir():
            raise InputError(f"{name}: is a directory: give the files in it")
        if path.exists() and not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(HEAD), os.fstat(file.fileno()).st_size


@contextmanager
def _read_errors(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file: check the path") from error
    except PermissionError as error:
        raise InputError(f"{name}: permission denied: check its permissions") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{name}: cannot be read: {reason}") from error


def _decode(
    source: Path | bytes, head: bytes, total: int, sampling: Sampling, name: str
) -> Picture | Clip:
    """Ask the libraries in turn, the likely one first."""
    if not head:
        raise InputError(f"{name}: the file is empty")
    kind = kind_of(head)
    if kind in _NEITHER:
        raise InputError(f"{name}: {_ADVICE[kind]}")
    from sage_core.media.images import read_picture

    if kind != "video" and (found := read_picture(source, sampling, name)) is not None:
        return found
    if kind == "text":
        raise InputError(f"{name}: {_ADVICE[kind]}")
    from sage_core.media.video import read_clip
    from sage_core.media.video_index import NO_VIDEO, NotVideoError, truncated

    if missing := missing_bytes(head, total):
        raise truncated(name, missing)
    try:
        return read_clip(source, sampling, name)
    except NotVideoError as error:
        found = read_picture(source, sampling, name, signed=False)
        if found is not None:
            return found
        clear = kind == "video" or (kind == "unknown" and str(error) == NO_VIDEO)
        raise InputError(f"{name}: {error if clear else _ADVICE[kind]}") from error

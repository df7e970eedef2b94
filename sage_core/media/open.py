"""Opening one input: its kind is found from its content, then it is decoded."""

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
    "sound": "is audio only: give an image or a video",
    "text": "is text, not an image or a video: check the path",
    "document": "is a document: export the page as an image first",
    "archive": "is an archive: extract it first",
    "unknown": "unsupported image or video format: convert it to PNG or MP4",
}


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
    """Refuse a file whose first bytes show that `open_media` cannot open it.

    A pipe or device is not read. ``source`` may also be all of the file's bytes.

    Raises:
        InputError: missing, a directory, not readable, empty, or of an unsupported format.
    """
    found = (source[:HEAD],) if isinstance(source, bytes) else _head(source, name)
    if found is not None:
        _kind(found[0], name)


def is_media(path: Path) -> bool:
    """Whether a file is an image or a video by its content; hidden files are neither."""
    if path.name.startswith(".") or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return kind_of(file.read(HEAD)) in ("picture", "video")
    except OSError:
        return False


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
    if _kind(head, name) == "picture":
        from sage_core.media.images import read_picture

        return read_picture(source, sampling, name)
    from sage_core.media.video import read_clip
    from sage_core.media.video_index import truncated

    if missing := missing_bytes(head, total):
        raise truncated(name, missing)
    return read_clip(source, sampling, name)


def _kind(head: bytes, name: str) -> str:
    """``picture`` or ``video``, from a file's first bytes."""
    if not head:
        raise InputError(f"{name}: the file is empty")
    kind = kind_of(head)
    if kind not in ("picture", "video"):
        raise InputError(f"{name}: {_ADVICE[kind]}")
    return kind

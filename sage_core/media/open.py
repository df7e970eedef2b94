"""Opening one input: its kind is found from its content, then it is decoded."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from sage_core.errors import InputError
from sage_core.media.isolate import MediaLimits, MediaWorker
from sage_core.media.sniff import HEAD, kind_of, missing_bytes
from sage_core.media.streams import read_pipe
from sage_core.media.types import Clip, Picture, Sampling

if TYPE_CHECKING:
    from PIL import Image

    Source = str | Path | bytes | Image.Image | BinaryIO | Picture | Clip

Opener = Callable[[Any, Sampling], Picture | Clip]
"""Opens an input, as `open_media` does."""

_ADVICE = {
    "sound": "is audio only: give an image or a video",
    "text": "is text, not an image or a video: check the path",
    "document": "is a document: export the page as an image first",
    "archive": "is an archive: extract it first",
    "unknown": "unsupported image or video format: convert it to PNG or MP4",
}


def open_media(
    source: Source,
    sampling: Sampling | None = None,
    name: str | None = None,
    *,
    isolate: bool | MediaLimits | MediaWorker = False,
) -> Picture | Clip:
    """Open an image or a video.

    ``source`` is a path, the file's bytes, an open binary file, a Pillow image, or the result of
    an earlier call, which is returned as it is. The format is found from the content, never from
    the name. ``name`` stands for the file in messages and results; the default is the path.

    With ``isolate`` a file is decoded in another process within `MediaLimits` (True: the default
    ones), which takes a moment to start; a `MediaWorker` is such a process for many files. What is
    a Pillow image has been read already. Where processes cannot pass files on (Windows), files are
    decoded here, without limits.

    Raises:
        InputError: missing, a directory or device, not readable, empty, corrupt, truncated, too
            large, of an unsupported format, the sampling lies outside the video, or ``isolate``
            and beyond its limits, or its decoder crashed. One line with ``name``.
    """
    sampling = sampling or Sampling()
    if isinstance(source, Picture | Clip):
        return source
    if hasattr(source, "getexif"):  # a Pillow image, asked without importing Pillow
        from sage_core.media.images import from_image

        image = cast("Image.Image", source)
        return from_image(image, sampling, name or getattr(source, "filename", "") or "<image>")
    file, name = _as_path_or_file(source, name)
    if isolate is False or not MediaWorker.supported():
        return _open_here(file, sampling, name)
    if isinstance(isolate, MediaWorker):
        return isolate.open(file, sampling, name)
    with MediaWorker(None if isolate is True else isolate) as worker:
        return worker.open(file, sampling, name)


def _as_path_or_file(source: Source, name: str | None) -> tuple[Path | BinaryIO, str]:
    """The path of a regular file, or a file that can be read; and the name for messages."""
    if isinstance(source, str | os.PathLike):
        path, name = Path(source), name or os.fspath(source)
        with _read_errors(name):
            return (path if _is_regular(path, name) else read_pipe(path, name)), name
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), name or "<bytes>"
    if hasattr(source, "read"):
        return cast("BinaryIO", source), name or str(getattr(source, "name", "<file>"))
    raise InputError(
        f"unsupported input type {type(source).__name__}: give a path, bytes, a binary file or a "
        "Pillow image"
    )


def _open_here(source: Path | BinaryIO, sampling: Sampling, name: str) -> Picture | Clip:
    if isinstance(source, Path):
        return _decode(source, *_head(source, name), sampling, name)
    data = source.read()
    return _decode(data, data[:HEAD], len(data), sampling, name)


def check_media(source: Path | BinaryIO, name: str) -> None:
    """Refuse a file whose first bytes show that `open_media` cannot open it.

    A pipe is not read; an open file is, and then put back to its beginning.

    Raises:
        InputError: missing, a directory or device, not readable, empty, or of an unsupported
            format.
    """
    if not isinstance(source, Path):
        head = source.read(HEAD)
        source.seek(0)
        _kind(head, name)
        return
    with _read_errors(name):
        regular = _is_regular(source, name)
    if regular:
        _kind(_head(source, name)[0], name)


def is_media(path: Path) -> bool:
    """Whether a file is an image or a video by its content; hidden files are neither."""
    if path.name.startswith(".") or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return kind_of(file.read(HEAD)) in ("picture", "video")
    except OSError:
        return False


def _is_regular(path: Path, name: str) -> bool:
    """Whether ``path`` is a regular file; False for a pipe.

    Raises:
        InputError: a directory or a device.
        OSError: there is no such file.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise InputError(f"{name}: is a directory: give the files in it")
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        raise InputError(f"{name}: is a device, not a file: give an image or a video")
    return stat.S_ISREG(mode)


def _head(path: Path, name: str) -> tuple[bytes, int]:
    """A file's first bytes and its length."""
    with _read_errors(name), path.open("rb") as file:
        return file.read(HEAD), os.fstat(file.fileno()).st_size


@contextmanager
def _read_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name):
            raise InputError(f"{name}: URLs are not read: download it and give the file") from error
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{name}: no such file: check the path") from error
        if isinstance(error, PermissionError):
            raise InputError(f"{name}: permission denied: check its permissions") from error
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

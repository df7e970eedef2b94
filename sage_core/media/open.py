"""Opening one input: Pillow or FFmpeg knows its format from its content, and decodes it."""

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
from sage_core.media.frame_sampling import check_size
from sage_core.media.isolate import MediaLimits, MediaWorker
from sage_core.media.plugins import declared_size, plugin_for
from sage_core.media.sniff import HEAD, Kind, kind_of, missing_bytes
from sage_core.media.streams import read_pipe
from sage_core.media.types import Clip, Picture, Sampling

if TYPE_CHECKING:
    from PIL import Image

    from sage_core.media.video_pyav import KeptVideo

    Source = str | Path | bytes | Image.Image | BinaryIO | Picture | Clip

Opener = Callable[[Any, Sampling], Picture | Clip]
"""Opens an input, as `open_media` does."""

_ADVICE = {
    "picture": "the image is corrupt or of an unsupported format: convert it to PNG",
    "sound": "is audio only: give an image or a video",
    "text": "is text, not an image or a video: check the path",
    "document": "is a document: export the page as an image first",
    "archive": "is an archive: extract it first",
    "unknown": "unsupported image or video format: convert it to PNG or MP4",
}
"""By `sniff.kind_of` a file that neither library knows."""
_LIKELY = ("picture", "video")
_NEITHER = ("document", "archive")
_PROBED = 2**20
"""Bytes of a file in which `is_media` lets FFmpeg look for a video."""


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
        return open_here(file, sampling, name)
    with _worker(isolate) as worker:
        return worker.open(file, sampling, name)


@contextmanager
def _worker(isolate: bool | MediaLimits | MediaWorker) -> Iterator[MediaWorker]:
    if isinstance(isolate, MediaWorker):
        yield isolate
        return
    with MediaWorker(isolate if isinstance(isolate, MediaLimits) else None) as worker:
        yield worker


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


def open_here(
    source: Path | BinaryIO, sampling: Sampling, name: str, kept: KeptVideo | None = None
) -> Picture | Clip:
    """A regular or an open file, decoded in this process; ``kept`` is what was read before."""
    if isinstance(source, Path):
        return _decode(source, *_head(source, name), sampling, name, kept)
    data = source.read()
    return _decode(data, data[:HEAD], len(data), sampling, name, kept)


def length_here(source: Path | BinaryIO, name: str, kept: KeptVideo | None = None) -> float | None:
    """Seconds of a video; None for anything else that can be opened, animations too.

    Raises:
        InputError: as `open_media`.
    """
    content = source if isinstance(source, Path) else _all_of(source)
    head = _head(content, name)[0] if isinstance(content, Path) else content[:HEAD]
    kind = kind_of(head)
    if kind != "video" and _is_known_picture(content, kind):
        return None
    from sage_core.media.video import length_of
    from sage_core.media.video_index import NotVideoError

    try:
        return length_of(content, name, kept)
    except NotVideoError as error:
        if kind == "video":
            raise InputError(f"{name}: {error}") from error
    return None  # whatever it is, opening it says so


def cuts_here(
    source: Path | BinaryIO, part: tuple[float, float], name: str, kept: KeptVideo | None = None
) -> list[float]:
    """Where scenes begin within [start, end) of a video, in seconds. Raises as `open_media`."""
    from sage_core.media.video import cuts_within

    return cuts_within(source if isinstance(source, Path) else _all_of(source), part, name, kept)


def _is_known_picture(source: Path | bytes, kind: Kind) -> bool:
    if kind == "picture":
        return True
    from sage_core.media.images import is_picture

    return is_picture(source)


def check_media(
    source: Path | BinaryIO, name: str, isolate: bool | MediaLimits | MediaWorker = False
) -> None:
    """Refuse a file that `open_media` cannot open, as far as its beginning tells.

    A pipe is not read; an open file is, and then put back to its beginning. ``isolate`` as for
    `open_media`.

    Raises:
        InputError: missing, a directory or device, not readable, empty, or of an unsupported
            format.
    """
    if isinstance(source, Path):
        with _read_errors(name):
            if not _is_regular(source, name):
                return
        head = _head(source, name)[0]
    else:
        head = source.read(HEAD)
        source.seek(0)
    if not head:
        raise InputError(f"{name}: the file is empty")
    kind = kind_of(head)
    if (plugin := plugin_for(head)) is not None:
        plugin.require(name)
    if kind in _LIKELY:
        return
    if kind not in _NEITHER and isolate is not False and MediaWorker.supported():
        with _worker(isolate) as worker:
            worker.check(source, name)
    elif not _is_known(source if isinstance(source, Path) else _all_of(source), kind):
        raise InputError(f"{name}: {_ADVICE[kind]}")


def is_media(path: Path) -> bool:
    """Whether a file is an image or a video by its content; hidden files are neither."""
    if path.name.startswith(".") or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        return bool(head) and _is_known(path, kind_of(head))
    except OSError:
        return False


def _is_known(source: Path | bytes, kind: Kind) -> bool:
    """Whether one of the libraries is likely to know the format; neither is asked if clear."""
    if kind in _LIKELY:
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


def _all_of(file: BinaryIO) -> bytes:
    data = file.read()
    file.seek(0)
    return data


def is_url(name: str) -> bool:
    """Whether a name is a URL (``https://...``, ``s3://...``), which is never fetched."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name) is not None


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
        if is_url(name):
            raise InputError(f"{name}: URLs are not read: download it and give the file") from error
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{name}: no such file: check the path") from error
        if isinstance(error, PermissionError):
            raise InputError(f"{name}: permission denied: check its permissions") from error
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{name}: cannot be read: {reason}") from error


def _decode(
    source: Path | bytes,
    head: bytes,
    total: int,
    sampling: Sampling,
    name: str,
    kept: KeptVideo | None = None,
) -> Picture | Clip:
    """Ask the libraries in turn, the likely one first."""
    if not head:
        raise InputError(f"{name}: the file is empty")
    kind = kind_of(head)
    if kind in _NEITHER:
        raise InputError(f"{name}: {_ADVICE[kind]}")
    if (plugin := plugin_for(head)) is not None:
        plugin.require(name)
        plugin.register()
        if (size := declared_size(head)) is not None:
            check_size(*size, name)
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
        return read_clip(source, sampling, name, kept)
    except NotVideoError as error:
        found = read_picture(source, sampling, name, signed=False)
        if found is not None:
            return found
        clear = kind == "video" or (kind == "unknown" and str(error) == NO_VIDEO)
        raise InputError(f"{name}: {error if clear else _ADVICE[kind]}") from error

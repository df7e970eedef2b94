"""Opening one input: what it is, by content, and then the decoder that it needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sage_core.errors import InputError
from sage_core.media.sniff import HEAD, kind_of, missing_bytes
from sage_core.media.types import Clip, Picture, Sampling

if TYPE_CHECKING:
    from PIL import Image

    Source = str | Path | bytes | Image.Image | BinaryIO | Picture | Clip

_ADVICE = {
    "sound": "is sound only: give a picture or a video",
    "text": "is text, whatever its name says: give a picture or a video",
    "document": "is a document: export the page as a picture first",
    "archive": "is an archive: unpack it first",
    "unknown": "is no picture or video of a known kind: convert it to PNG or MP4",
}


def open_media(
    source: Source, sampling: Sampling | None = None, name: str | None = None
) -> Picture | Clip:
    """Open a picture or a clip.

    ``source`` is a path, the file's bytes, an open binary file, a Pillow image, or something
    opened before, which is returned as it is. What it holds is found from its content, never
    from its name. ``name`` is what messages and results call it; by default the path.

    Raises:
        InputError: missing, a directory, not permitted, empty, damaged, cut off, absurdly large,
            of no known kind, or the sampling lies outside the clip. One line, naming the file.
    """
    sampling = sampling or Sampling()
    if isinstance(source, Picture | Clip):
        return source
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source), sampling, name or os.fspath(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return _open_bytes(bytes(source), sampling, name or "<bytes>")
    if hasattr(source, "read"):
        name = name or str(getattr(source, "name", "<file>"))
        return _open_bytes(source.read(), sampling, name)
    if hasattr(source, "getexif"):  # a Pillow image, asked without importing Pillow
        from sage_core.media.pictures import from_image

        return from_image(source, sampling, name or getattr(source, "filename", "") or "<image>")
    raise InputError(f"{type(source).__name__} is no input: give a path, bytes or a Pillow image")


def _open_path(path: Path, sampling: Sampling, name: str) -> Picture | Clip:
    try:
        if path.is_dir():
            raise InputError(f"{name}: is a directory: give the files in it")
        if path.exists() and not path.is_file():  # a pipe or a device has no beginning to return to
            return _open_bytes(path.read_bytes(), sampling, name)
        with path.open("rb") as file:
            head = file.read(HEAD)
            total = os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file: check the path") from error
    except PermissionError as error:
        raise InputError(f"{name}: not permitted to read it: check its permissions") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{name}: cannot be read: {reason}") from error
    return _decode(path, head, total, sampling, name)


def _open_bytes(data: bytes, sampling: Sampling, name: str) -> Picture | Clip:
    return _decode(data, data[:HEAD], len(data), sampling, name)


def _decode(
    source: Path | bytes, head: bytes, total: int, sampling: Sampling, name: str
) -> Picture | Clip:
    if not head:
        raise InputError(f"{name}: the file is empty")
    kind = kind_of(head)
    if kind == "picture":
        from sage_core.media.pictures import read_picture

        return read_picture(source, sampling, name)
    if kind == "video":
        from sage_core.media.clips import read_clip

        if missing := missing_bytes(head, total):
            raise InputError(
                f"{name}: the clip is cut off, {missing:,} bytes are missing: get a whole copy"
            )
        return read_clip(source, sampling, name)
    raise InputError(f"{name}: {_ADVICE[kind]}")

"""Files that are replaced whole: written beside their place, then moved there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

_LONGEST = 200
"""Bytes of a name that its scratch name keeps."""


def write_atomically(path: Path, data: str | bytes, *, sync: bool = False) -> None:
    """Replace ``path`` with ``data``; text is written as UTF-8, odd bytes of file names kept.

    ``sync`` flushes the data to the disk first.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    with replacing(path, sync=sync) as scratch:
        content = data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")
        scratch.write_bytes(content)


@contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a scratch path in the folder of ``path``; what is written there becomes ``path``.

    After an exception ``path`` is as it was, and the scratch file is removed. An OSError of the
    scratch file names ``path`` instead.
    """
    path = path.resolve()
    scratch = _beside(path.parent, path.name)
    try:
        yield scratch
        if sync:
            with scratch.open("rb") as file:
                os.fsync(file.fileno())
        replace_file(scratch, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(scratch)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder inside ``folder``, which is made; its files move to ``folder`` at the
    end, each of them whole. After an exception ``folder`` is as it was.
    """
    scratch = _beside(folder, "files")
    scratch.mkdir(parents=True)
    try:
        yield scratch
        for file in sorted(scratch.iterdir()):
            replace_file(file, folder / file.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def replace_file(scratch: Path, path: Path) -> None:
    """Move ``scratch``, of the same file system, to ``path``; an older file's mode is kept."""
    if path.exists():
        shutil.copymode(path, scratch)
    scratch.replace(path)


def shortened(name: str) -> str:
    """``name`` cut so that a suffix can follow: file systems take names of up to 255 bytes."""
    return os.fsdecode(os.fsencode(name)[:_LONGEST])


def _beside(folder: Path, name: str) -> Path:
    return folder / f".{shortened(name)}.{token_hex(4)}.tmp"

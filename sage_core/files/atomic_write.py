"""Files that are replaced whole: written beside their place, then moved there."""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from secrets import token_hex

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

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

    After an exception ``path`` is as it was, and the scratch file is removed. So is one of the same
    path whose process was killed. An OSError of the scratch file names ``path`` instead.

    Raises:
        OSError: ``path`` is there and no regular file: a device or a pipe is never replaced.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    with _scratch(path.parent, path.name, Path.touch) as scratch:
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
    folder.mkdir(parents=True, exist_ok=True)
    with _scratch(folder, "files", Path.mkdir) as scratch:
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


@contextmanager
def _scratch(folder: Path, name: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a new, locked scratch file or folder for ``name``; those that no process has a lock on
    any more are removed first.

    A lock ends with its process, whatever ends it, and other containers see it too. Where the
    system has no locks nothing is removed.
    """
    name = shortened(name)
    for left in folder.glob(f".{glob.escape(name)}.????????.tmp"):
        with suppress(OSError), _lock(left):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    with ExitStack() as held:
        while True:
            scratch = folder / f".{name}.{token_hex(4)}.tmp"
            make(scratch)
            try:
                held.enter_context(_lock(scratch))
            except (BlockingIOError, FileNotFoundError):  # another process is removing it
                continue
            except OSError:
                pass
            break
        yield scratch


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file is gone, or the system has no locks.
    """
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        lock(number)
        yield
    finally:
        os.close(number)


def lock(descriptor: int) -> None:
    """Lock an open file or folder until it is closed, also by the end of its process.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the system, or the file system, has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

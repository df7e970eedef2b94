"""Where results go: standard output, or a file that is replaced only when it is complete."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from sage_cli.console import display_name
from sage_core.errors import OptionError

__all__ = ["AtomicFile", "check_writable", "stdout_writer", "write_atomically"]


def check_writable(path: Path, option: str) -> None:
    """Refuse, before any work is done, a path that cannot be written in the end.

    Raises:
        OptionError: it is a folder, its folder is missing, or permission is.
    """
    shown = display_name(str(path))
    folder = path.resolve().parent
    if path.is_dir():
        raise OptionError(f"{option} {shown}: is a folder")
    if not folder.is_dir():
        raise OptionError(f"{option} {shown}: there is no folder {display_name(str(folder))}")
    writable = path if path.exists() and not path.is_file() else folder
    if not os.access(writable, os.W_OK) or (path.is_file() and not os.access(path, os.W_OK)):
        raise OptionError(f"{option} {shown}: no permission to write")


class AtomicFile:
    """A text file that grows beside its final place and takes it on `commit`.

    Until then the text is in ``FILE.partial``, written through at each `write`, so that neither
    an older FILE nor what was finished of the new one is lost on failure. Devices and pipes
    (``/dev/null``, a FIFO) cannot be replaced and are written directly.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._direct = path.exists() and not path.is_file()
        self.partial = (
            self._path if self._direct else self._path.with_name(self._path.name + ".partial")
        )
        self._file: TextIO = self.partial.open("w", encoding="utf-8", errors="surrogateescape")
        self._empty = True

    def write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()
        self._empty = self._empty and not text

    def commit(self) -> None:
        """Make it the file."""
        self._file.close()
        if not self._direct:
            if self._path.exists():
                shutil.copymode(self._path, self.partial)
            self.partial.replace(self._path)

    def abandon(self) -> Path | None:
        """Leave FILE as it was; returns where the unfinished text is, None if there is none."""
        self._file.close()
        if self._direct:
            return None
        if self._empty:
            self.partial.unlink(missing_ok=True)
            return None
        return self.partial


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` with ``text`` in one move."""
    file = AtomicFile(path)
    try:
        file.write(text)
    except BaseException:
        left = file.abandon()
        if left is not None:
            left.unlink(missing_ok=True)
        raise
    file.commit()


def stdout_writer() -> Callable[[str], None]:
    """Write to standard output and flush, so that a closed pipe is noticed at once."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    return write

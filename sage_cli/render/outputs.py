"""Where results are written: standard output, or a file that is replaced when complete."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TextIO

from sage_cli.console import display_name
from sage_core.errors import OptionError
from sage_core.files.atomic_write import replace_file, write_atomically

__all__ = [
    "AtomicFile",
    "check_not_input",
    "check_writable",
    "stdout_writer",
    "write_output",
]

_DESCRIPTOR = re.compile(r"/(?:dev|proc/(?:self|thread-self|(?P<process>\d+)))/fd/(?P<number>\d+)")
_MOST_LINKS = 40  # followed from one name, the limit of Linux


def check_writable(path: Path, option: str) -> None:
    """Refuse a path that cannot be written, before any work is done.

    Raises:
        OptionError: it is a folder, its folder does not exist, or there is no permission.
    """
    shown = display_name(str(path))
    number = _descriptor(path)
    if number is not None:
        try:
            os.fstat(number)
        except OSError as error:
            raise OptionError(f"{option} {shown}: not an open file descriptor") from error
        return
    folder = path.resolve().parent
    if path.is_dir():
        raise OptionError(f"{option} {shown}: is a folder")
    if not folder.is_dir():
        raise OptionError(f"{option} {shown}: there is no folder {display_name(str(folder))}")
    writable = path if path.exists() and not path.is_file() else folder
    if not os.access(writable, os.W_OK) or (path.is_file() and not os.access(path, os.W_OK)):
        raise OptionError(f"{option} {shown}: no permission to write")


def check_not_input(path: Path, option: str, inputs: Sequence[str]) -> None:
    """Refuse to overwrite an input file, by whatever name; ``-`` is standard input.

    Raises:
        OptionError: ``path`` is one of ``inputs``.
    """
    if not path.is_file():
        return
    for name in inputs:
        if _is_same(path, name):
            shown = "standard input" if name == "-" else f"the input {display_name(name)}"
            raise OptionError(f"{option} {display_name(str(path))}: would overwrite {shown}")


def _is_same(path: Path, name: str) -> bool:
    """Whether an input is the file ``path``; one that cannot be opened is not."""
    try:
        other = os.fstat(sys.stdin.fileno()) if name == "-" else Path(name).stat()
        return os.path.samestat(path.stat(), other)
    except (OSError, ValueError):
        return False


def _descriptor(path: Path) -> int | None:
    """The file descriptor that a name such as ``/dev/stdout`` stands for, else None.

    Links are followed one by one: the last one leads to the file that the shell opened, which must
    not be replaced, since it may hold earlier text.
    """
    for _ in range(_MOST_LINKS):
        path = Path(os.path.abspath(path))  # noqa: PTH100, resolve() follows links
        found = _DESCRIPTOR.fullmatch(str(path))
        if found is not None:
            own = found["process"] in (None, str(os.getpid()))
            return int(found["number"]) if own else None
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return None


def _is_direct(path: Path) -> bool:
    """Whether ``path`` is a device, a pipe or an open file, which cannot be replaced."""
    return _descriptor(path) is not None or (path.exists() and not path.is_file())


def _open_new(path: Path) -> tuple[Path, TextIO]:
    """``FILE.partial``, or ``FILE.partial.2`` and so on if that exists, from another run."""
    first = path.with_name(path.name + ".partial")
    for number in count(1):
        name = first if number == 1 else first.with_name(f"{first.name}.{number}")
        with suppress(FileExistsError):
            return name, name.open("x", encoding="utf-8", errors="surrogateescape")
    raise AssertionError("numbers do not end")


class AtomicFile:
    """A text file that grows beside its final path and is moved there by `commit`.

    Until then the text is in ``FILE.partial``, flushed at each `write`, so that neither an older
    FILE nor the finished part of the new one is lost on failure. A number is added if that name
    exists. Devices and pipes (``/dev/null``, a FIFO) and open file descriptors (``/dev/stdout``,
    ``/dev/fd/3``) cannot be replaced and are written directly.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        number = _descriptor(path)
        self._direct = _is_direct(path)
        self._file: TextIO
        if self._direct:
            self.partial = path
            # Through a copy of the descriptor, text is appended to what is in the file.
            target = path if number is None else os.dup(number)
            self._file = open(  # noqa: SIM115, PTH123, kept open; a number is no path
                target, "w", encoding="utf-8", errors="surrogateescape"
            )
        else:
            self.partial, self._file = _open_new(self._path)
        self._empty = True

    def write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()
        self._empty = self._empty and not text

    def commit(self) -> None:
        """Replace FILE."""
        self._file.close()
        if not self._direct:
            replace_file(self.partial, self._path)

    def abandon(self) -> Path | None:
        """Leave FILE as it was; returns the path of the unfinished text, None if there is none."""
        if self._direct:
            with suppress(OSError):  # the failed write has been reported
                self._file.close()
            return None
        self._file.close()
        if self._empty:
            self.partial.unlink(missing_ok=True)
            return None
        return self.partial


def write_output(path: Path, text: str) -> None:
    """Replace ``path`` with ``text`` at once; devices and open files are written directly."""
    if _is_direct(path):
        file = AtomicFile(path)
        try:
            file.write(text)
        finally:
            file.commit()
    else:
        write_atomically(path, text)


def stdout_writer() -> Callable[[str], None]:
    """Write to standard output and flush, so that a closed pipe is noticed at once."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    return write

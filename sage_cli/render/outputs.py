"""Where results are written: standard output, or a file that is replaced when complete."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import Protocol, TypeVar

from sage_cli import signals
from sage_cli.console import display_name
from sage_cli.streams import OutputError
from sage_core.errors import OptionError
from sage_core.files.atomic_write import lock, replace_file, shortened, write_atomically

__all__ = [
    "AtomicFile",
    "OutputFile",
    "append",
    "check_not_input",
    "check_writable",
    "folder_locked",
    "lock_or_refuse",
    "opened",
    "output_errors",
    "stdout_writer",
    "write_output",
]

_DESCRIPTOR = re.compile(r"/(?:dev|proc/(?:self|thread-self|(?P<process>\d+)))/fd/(?P<number>\d+)")
_MOST_LINKS = 40  # followed from one name, the limit of Linux
_FOLDER_WAIT = 1.0  # seconds


def check_writable(path: Path, option: str) -> None:
    """Refuse a path that cannot be written, before any work is done.

    Raises:
        OptionError: it is a folder, its folder does not exist, there is no permission, or no file
            can have that name.
    """
    shown = display_name(str(path))
    try:
        _check_writable(path, f"{option} {shown}")
    except OptionError:
        raise
    except (OSError, ValueError) as error:  # too long, or with a NUL in it
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(f"{option} {shown}: {reason}") from error


def _check_writable(path: Path, named: str) -> None:
    number = _descriptor(path)
    if number is not None:
        try:
            os.fstat(number)
        except OSError as error:
            raise OptionError(f"{named}: not an open file descriptor") from error
        return
    folder = path.resolve().parent
    if path.is_dir():
        raise OptionError(f"{named}: is a folder")
    if not folder.is_dir():
        raise OptionError(f"{named}: there is no folder {display_name(str(folder))}")
    writable = path if path.exists() and not path.is_file() else folder
    if not os.access(writable, os.W_OK) or (path.is_file() and not os.access(path, os.W_OK)):
        raise OptionError(f"{named}: no permission to write")


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


class AtomicFile:
    """A text file that grows beside its final path and is moved there by `commit`.

    Until then the text is in ``FILE.partial``, written at each `write`, so that neither an older
    FILE nor the finished part of the new one is lost on failure. A number is added if an earlier
    run left a file of that name. Devices and pipes (``/dev/null``, a FIFO) and open file
    descriptors (``/dev/stdout``, ``/dev/fd/3``) cannot be replaced and are written directly.

    Raises:
        OptionError: another run is writing FILE.
        OutputError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._name = display_name(str(path))
        self.direct = _is_direct(path)
        number = _descriptor(path)
        self._done = False
        with output_errors(self._name):
            if self.direct:
                self.partial = path
                # Through a copy of the descriptor, text is appended to what is in the file.
                self._number = os.open(path, os.O_WRONLY) if number is None else os.dup(number)
            else:
                self.partial, self._number = _open_new(self._path)

    def write(self, text: str) -> None:
        """Write all of ``text``, or nothing where the disk is full.

        Raises:
            OutputError, BrokenPipeError: it cannot be written.
        """
        with output_errors(self._name):
            append(self._number, text, undo=not self.direct)

    def commit(self) -> None:
        """Replace FILE.

        Raises:
            OutputError: it cannot be replaced; the text stays in ``FILE.partial``.
        """
        with output_errors(self._name):
            if not self.direct:
                replace_file(self.partial, self._path)
            self._close()

    def abandon(self) -> Path | None:
        """Leave FILE as it was; returns the path of the unfinished text, None if there is none.

        Does nothing after `commit`.
        """
        if self._done:
            return None
        empty = not os.fstat(self._number).st_size
        with suppress(OSError):  # the failed write has been reported
            self._close()
        if self.direct or not self.partial.exists():
            return None
        if empty:
            self.partial.unlink(missing_ok=True)
            return None
        return self.partial

    def _close(self) -> None:
        self._done = True
        os.close(self._number)


def append(descriptor: int, text: str, *, undo: bool = True) -> None:
    """Write all of ``text`` at the end of an open file; with ``undo``, nothing if that fails.

    Raises:
        OSError: it cannot be written.
    """
    data = memoryview(text.encode("utf-8", "surrogateescape"))
    before = os.fstat(descriptor).st_size
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        if undo:
            os.ftruncate(descriptor, before)
        raise


class OutputFile(Protocol):
    """A file that a run writes results to."""

    def write(self, text: str) -> None:
        """Write all of ``text`` or nothing."""

    def commit(self) -> None:
        """Everything is written."""

    def abandon(self) -> Path | None:
        """The run failed; returns the path of unfinished text, None if there is none."""


@contextmanager
def output_errors(name: str) -> Iterator[None]:
    """Errors name the output; that of a closed pipe stays what it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error, name) from error


File = TypeVar("File", bound=OutputFile)


@contextmanager
def opened(path: Path | None, make: Callable[[Path], File]) -> Iterator[File | None]:
    """The file of ``--output``, left as ``make(path)`` leaves it unless it is committed."""
    if path is None:
        yield None
        return
    file = make(path)
    with signals.at_once(file.abandon):
        try:
            yield file
        finally:
            file.abandon()


def _open_new(path: Path) -> tuple[Path, int]:
    """``FILE.partial``, or ``FILE.partial.2`` and so on if an earlier run left that.

    The new file is locked until it is closed, so that a second run knows of the first, and no
    longer once that was killed. Between looking and locking, the folder is locked.

    Raises:
        OptionError: another run has locked one of them.
    """
    first = path.with_name(shortened(path.name) + ".partial")
    with folder_locked(path.parent):
        for number in count(1):
            name = first if number == 1 else first.with_name(f"{first.name}.{number}")
            try:
                file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                if not _is_locked(name):
                    continue
                raise _in_use(display_name(str(path))) from None
            _lock(file)
            return name, file
    raise AssertionError("numbers do not end")


def _in_use(name: str) -> OptionError:
    return OptionError(
        f"--output {name}: another run is writing this file: wait for it or name another"
    )


def lock_or_refuse(descriptor: int, name: str) -> None:
    """Lock an open file until it is closed.

    Raises:
        OptionError: another run has.
    """
    if not _lock(descriptor):
        os.close(descriptor)
        raise _in_use(name)


@contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """Keep other runs out; not for long, since `flock FOLDER sage...` would wait for itself."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # may be written but not read
        yield
        return
    try:
        end = monotonic() + _FOLDER_WAIT
        while not _lock(descriptor) and monotonic() < end:
            sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file; False if another process has. Where nothing can be locked, nobody has."""
    try:
        lock(descriptor)
    except BlockingIOError:
        return False
    except OSError:  # nothing can be locked
        return True
    return True


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def write_output(path: Path, text: str) -> None:
    """Replace ``path`` with ``text`` at once; devices and open files are written directly.

    Raises:
        OSError: it cannot be written, with ``path`` as its file name.
    """
    if not _is_direct(path):
        with signals.raised_inside():
            write_atomically(path, text)
        return
    file = AtomicFile(path)
    try:
        file.write(text)
    finally:
        file.abandon()


def stdout_writer() -> Callable[[str], None]:
    """Write to standard output and flush, so that a closed pipe is noticed at once.

    Standard output is what it is at the time of this call.
    """
    stream = sys.stdout

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return write

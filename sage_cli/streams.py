"""Standard output and standard error that may be closed or full."""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO

__all__ = ["OutputError", "replace_streams"]


class OutputError(OSError):
    """A result cannot be written; ``filename`` is the output's name."""

    def __init__(self, error: OSError, name: str) -> None:
        super().__init__(error.errno, error.strerror or str(error), name)


class _Results(io.FileIO):
    """Standard output. What cannot be written is raised once, the rest is dropped: it stays in
    buffers that are flushed again at the end.
    """

    _failed = False

    def write(self, data: Any) -> int:
        if self._failed:
            return len(data)
        try:
            while (written := super().write(data)) is None:  # not blocking, and not ready
                select.select([], [self], [])
        except OSError as error:
            self._failed = True
            if isinstance(error, BrokenPipeError):
                raise
            raise OutputError(error, "standard output") from error
        return written


class _Messages(io.FileIO):
    """Standard error. What cannot be written is dropped: no result is lost for a message."""

    def write(self, data: Any) -> int:
        with suppress(OSError):
            written: int | None = super().write(data)
            if written is not None:
                return written
        return len(data)


def replace_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` what this module says; open all three that are closed.

    A closed one (``2>&-``) is opened on the null device. This also takes its descriptor: else the
    next file opened would get it, and with it everything that a library writes to standard error.
    A character that the locale lacks is replaced; the text around it is kept.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
    with suppress(OSError, ValueError, AttributeError):  # no files, as in a test
        sys.stdout = _text(_Results(sys.stdout.fileno(), "w", closefd=False), sys.stdout)
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr = _text(_Messages(sys.stderr.fileno(), "w", closefd=False), sys.stderr)


def _text(raw: io.FileIO, old: TextIO) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=old.encoding,
        errors="replace",
        line_buffering=getattr(old, "line_buffering", False),
        write_through=getattr(old, "write_through", False),
    )

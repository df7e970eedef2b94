"""Standard output and standard error that may be closed or full."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO, TypeVar

__all__ = ["OutputError", "replace_streams"]

Result = TypeVar("Result")


class OutputError(OSError):
    """A result cannot be written; ``filename`` is the output's name."""

    def __init__(self, error: OSError, name: str) -> None:
        super().__init__(error.errno, error.strerror or str(error), name)


class _Results(io.TextIOWrapper):
    """Standard output. What cannot be written is raised once, the rest is dropped: it stays in
    buffers that are flushed again at the end.

    The buffer below is Python's own: a signal that interrupts it leaves it whole.
    """

    _failed = False

    def write(self, text: str) -> int:
        return self._tried(lambda: super(_Results, self).write(text), len(text))

    def flush(self) -> None:
        self._tried(super().flush, None)

    def _tried(self, act: Callable[[], Result], otherwise: Result) -> Result:
        if self._failed:
            return otherwise
        try:
            return act()
        except BrokenPipeError:
            self._failed = True
            raise
        except OSError as error:
            self._failed = True
            raise OutputError(error, "standard output") from error


class _Messages(io.TextIOWrapper):
    """Standard error. What cannot be written is dropped: no result is lost for a message.

    There is no buffer below, since a signal's handler may write while another message is written.
    """

    def write(self, text: str) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


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
        sys.stdout = _rewrapped(_Results, sys.stdout, io.BufferedWriter)
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr = _rewrapped(_Messages, sys.stderr, lambda file: file)


def _rewrapped(
    kind: type[io.TextIOWrapper], old: TextIO, buffered: Callable[[io.FileIO], Any]
) -> TextIO:
    return kind(
        buffered(io.FileIO(old.fileno(), "w", closefd=False)),
        encoding=old.encoding,
        errors="replace",
        line_buffering=getattr(old, "line_buffering", False),
        write_through=getattr(old, "write_through", False),
    )

"""Ctrl-C, SIGTERM and SIGHUP: one way to end for all three.

Imports nothing of sage, since it must be in place before the imports of the commands.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from types import FrameType
from typing import Any, NoReturn

__all__ = [
    "Interrupted",
    "at_once",
    "continued",
    "install",
    "interrupted",
    "is_ctrl_c",
    "raised",
    "raised_inside",
]

_NUMBERS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
_DEAF = 5.0
"""Seconds after a signal in which further ones change nothing: `timeout` sends its signal twice,
and a terminal sends it to a program and to what started it."""
_RETRY = 0.02
"""Seconds until a signal that came within an import is raised again."""
_PATIENCE = 10.0
"""Seconds after which a signal ends the program even within an import, which may hang when memory
is short."""


class Interrupted(KeyboardInterrupt):
    """One of the three signals; ``number`` is that of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class _Handler:
    """Ends the program at once, or raises `Interrupted` where something is to be kept.

    Nothing is raised within an import: native modules do not stand it (a library that is imported
    by half, or an abort). The third signal, if the first two were not enough, ends at once.
    """

    def __init__(self) -> None:
        self.number = 0
        """Of the first signal; 0 before."""
        self.inside = 0
        """How many `raised_inside` are open."""
        self.before_end: list[Callable[[], object]] = []
        self._times = 0
        self._deaf_until = self._patient_until = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if monotonic() < self._deaf_until:
            return
        first, self.number = not self.number, self.number or number
        self._times += 1
        if not self.inside or self._times > 2:
            self.end(tell=first)
        self._patient_until = monotonic() + _PATIENCE
        self._raise(frame)

    def _raise(self, frame: FrameType | None) -> None:
        self._deaf_until = monotonic() + _DEAF
        if not _imports(frame):
            raise Interrupted(self.number)
        if monotonic() > self._patient_until:
            self.end(tell=True)
        self.retry()

    def retry(self) -> None:
        """Raise a moment later."""
        signal.signal(signal.SIGALRM, lambda number, frame: self._raise(frame))
        signal.setitimer(signal.ITIMER_REAL, _RETRY)

    def forget(self) -> None:
        self.number = self._times = 0
        self._deaf_until = 0.0

    def end(self, *, tell: bool) -> NoReturn:
        """Exit without the interpreter's own end: threads of libraries write to the terminal then.

        The message is written past `sys.stderr`, which the interrupted code may be writing to.
        """
        for undo in reversed(self.before_end):
            with suppress(Exception):
                undo()
        if tell:
            with suppress(OSError):
                os.write(2, b"sage: interrupted\n")
        os._exit(128 + self.number)


def _imports(frame: FrameType | None) -> bool:
    """Whether the code that is interrupted runs within an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def install() -> None:
    """Handle the three signals, but for those that are ignored (``nohup``, ``&`` in a script)."""
    if _current() is not None or threading.current_thread() is not threading.main_thread():
        return
    handler = _Handler()
    for number in _NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
    # What ends because of the signal is no news; nor may a library swallow the signal.
    usual, of_thread = sys.unraisablehook, threading.excepthook

    def unraisable(args: Any) -> None:
        if not handler.number:
            usual(args)
        elif isinstance(args.exc_value, Interrupted):
            handler.retry()

    sys.unraisablehook = unraisable
    threading.excepthook = lambda args: None if handler.number else of_thread(args)


def _current() -> _Handler | None:
    found = (signal.getsignal(number) for number in _NUMBERS)
    return next((handler for handler in found if isinstance(handler, _Handler)), None)


@contextmanager
def raised_inside() -> Iterator[None]:
    """While open a signal raises `Interrupted`, since something is to be kept or put in order."""
    handler = _current()
    if handler is None:
        yield
        return
    handler.inside += 1
    try:
        yield
    finally:
        handler.inside -= 1


@contextmanager
def at_once(undo: Callable[[], object]) -> Iterator[None]:
    """While open, ``undo`` is called before a signal ends the program at once."""
    handler = _current()
    if handler is None:
        yield
        return
    handler.before_end.append(undo)
    try:
        yield
    finally:
        handler.before_end.remove(undo)


def interrupted() -> int:
    """The number of the signal that ends the program; 0 if there was none."""
    handler = _current()
    return handler.number if handler is not None else 0


def raised(error: BaseException) -> bool:
    """Whether ``error`` comes from a signal. Code that is interrupted may fail in other ways,
    such as ``release unlocked lock``.
    """
    return isinstance(error, KeyboardInterrupt) or bool(interrupted())


def is_ctrl_c(error: KeyboardInterrupt) -> bool:
    """Whether a user pressed Ctrl-C; else the program is to end."""
    return getattr(error, "number", signal.SIGINT) == signal.SIGINT


def continued() -> None:
    """The program goes on after Ctrl-C: the next one is the first again."""
    handler = _current()
    if handler is not None:
        handler.forget()

"""Results as text."""

from __future__ import annotations

from sage_cli.console import clean
from sage_cli.sinks.sink import Record, Sink, Write

__all__ = ["PlainText"]


class PlainText(Sink):
    """The texts; with several, each under its files' names as ``head`` and ``tail`` print them."""

    def __init__(self, write: Write, *, several: bool, for_terminal: bool) -> None:
        self._write = write
        self._several = several
        self._for_terminal = for_terminal
        self._first = True

    def begin(self, label: str) -> None:
        """Write the heading of a text that is streamed."""
        self._write(self._heading(label))

    def _heading(self, label: str) -> str:
        first, self._first = self._first, False
        return f"{'' if first else chr(10)}==> {label} <==\n" if self._several else ""

    def result(self, label: str, record: Record) -> None:
        text = record["text"]
        # One write: an interruption leaves no heading without its text.
        self._write(self._heading(label) + (clean(text) if self._for_terminal else text) + "\n")

"""Results as text, as one JSON document, or as one JSON object per line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from sage_cli.console import clean
from sage_cli.render.jsonout import dump

__all__ = ["Json", "PlainText", "Streamer", "Writer"]

Write = Callable[[str], None]


class Writer(ABC):
    """Takes results and failures in order; ``close`` ends the document."""

    @abstractmethod
    def result(self, label: str, text: str, data: dict[str, Any]) -> None:
        """One result: its text, and its JSON object."""

    @abstractmethod
    def failure(self, label: str, data: dict[str, Any]) -> None:
        """One failure's JSON object."""

    def close(self) -> None:
        """All results are in."""
        return


class PlainText(Writer):
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

    def result(self, label: str, text: str, data: dict[str, Any]) -> None:
        # One write: an interruption leaves no heading without its text.
        self._write(self._heading(label) + (clean(text) if self._for_terminal else text) + "\n")

    def failure(self, label: str, data: dict[str, Any]) -> None:
        """Nothing: failures are reported on standard error."""


class Json(Writer):
    """Objects on lines of their own, as each is done; or at the end one object, or a list of them
    in order for ``several`` results.
    """

    def __init__(self, write: Write, *, lines: bool, several: bool) -> None:
        self._write = write
        self._lines = lines
        self._several = several
        self._objects: list[dict[str, Any]] = []

    def result(self, label: str, text: str, data: dict[str, Any]) -> None:
        self.failure(label, data)

    def failure(self, label: str, data: dict[str, Any]) -> None:
        if self._lines:
            self._write(dump(data) + "\n")
        else:
            self._objects.append(data)

    def close(self) -> None:
        objects, self._objects = self._objects, []  # once, also if it is interrupted
        if objects:
            whole = objects if self._several else objects[0]
            self._write(dump(whole, indent=2) + "\n")


class Streamer:
    """Writes a growing text's new part each time."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._written = ""

    def update(self, text: str) -> None:
        """Write what is new; a text that changed where it was written waits for `finish`."""
        if len(text) > len(self._written) and text.startswith(self._written):
            self._write(clean(text[len(self._written) :]))
            self._written = text

    def finish(self, text: str) -> None:
        """Write the rest and a line end; all of it again if it differs from what was written."""
        if text.startswith(self._written):
            self.update(text)
        else:
            self._write("\n" + clean(text))
        self._write("\n")

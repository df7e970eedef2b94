"""Results as they leave: text, one JSON document, or a JSON object to a line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from sage_cli.console import clean
from sage_cli.render.jsonout import dump

__all__ = ["JsonLines", "JsonWhole", "PlainText", "Streamer", "Writer", "heading"]

Write = Callable[[str], None]


def heading(label: str, *, first: bool) -> str:
    """The line above each of several texts, as ``head`` and ``tail`` print it."""
    return f"{'' if first else chr(10)}==> {label} <==\n"


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
    """The texts; headed by their files' names if there are several."""

    def __init__(self, write: Write, *, several: bool, for_terminal: bool) -> None:
        self._write = write
        self._several = several
        self._for_terminal = for_terminal
        self._first = True

    def begin(self, label: str) -> None:
        """Head the next text; `result` does this for a text that was not streamed."""
        if self._several:
            self._write(heading(label, first=self._first))
        self._first = False

    def result(self, label: str, text: str, data: dict[str, Any]) -> None:
        self.begin(label)
        self.end(text)

    def end(self, text: str) -> None:
        """Write a text, or what is left of it, and its line end."""
        self._write((clean(text) if self._for_terminal else text) + "\n")

    def failure(self, label: str, data: dict[str, Any]) -> None:
        """Nothing: failures are told on standard error."""


class JsonLines(Writer):
    """One object to a line, as each is done."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def result(self, label: str, text: str, data: dict[str, Any]) -> None:
        self._write(dump(data) + "\n")

    def failure(self, label: str, data: dict[str, Any]) -> None:
        self._write(dump(data) + "\n")


class JsonWhole(Writer):
    """One object; a list of them, in order, if several files were given."""

    def __init__(self, write: Write, *, several: bool) -> None:
        self._write = write
        self._several = several
        self._objects: list[dict[str, Any]] = []

    def result(self, label: str, text: str, data: dict[str, Any]) -> None:
        self._objects.append(data)

    def failure(self, label: str, data: dict[str, Any]) -> None:
        self._objects.append(data)

    def close(self) -> None:
        if self._objects:
            whole = self._objects if self._several else self._objects[0]
            self._write(dump(whole, indent=2) + "\n")


class Streamer:
    """Writes a growing text's new part each time."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._written = ""

    def update(self, text: str) -> None:
        """Write what has come since; a text that changed behind the pen waits for `finish`."""
        if len(text) > len(self._written) and text.startswith(self._written):
            self._write(clean(text[len(self._written) :]))
            self._written = text

    def finish(self, text: str) -> None:
        """Write the rest and a line end; anew if the final text differs from what was written."""
        if text.startswith(self._written):
            self.update(text)
        else:
            self._write("\n" + clean(text))
        self._write("\n")

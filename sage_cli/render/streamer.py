"""A growing text on a terminal."""

from __future__ import annotations

from collections.abc import Callable

from sage_cli.console import clean

__all__ = ["Streamer"]

Write = Callable[[str], None]


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

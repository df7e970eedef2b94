"""The list of failed files."""

from __future__ import annotations

from pathlib import Path

from sage_cli.render.jsonout import dump
from sage_cli.render.outputs import write_output
from sage_cli.sinks.sink import Record, Sink

__all__ = ["Failures"]


class Failures(Sink):
    """Writes the failures' records, an object per line, when the run ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []
        self._closed = False

    def result(self, label: str, record: Record) -> None:
        return

    def failure(self, label: str, record: Record) -> None:
        self._lines.append(dump(record) + "\n")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            write_output(self._path, "".join(self._lines))

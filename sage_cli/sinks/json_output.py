"""Results as one JSON document, or as one JSON object per line."""

from __future__ import annotations

from sage_cli.render.jsonout import dump
from sage_cli.sinks.sink import Record, Sink, Write

__all__ = ["Json"]


class Json(Sink):
    """Objects on lines of their own, as each is done; or at the end one object, or a list of them
    in order for ``several`` results.
    """

    def __init__(self, write: Write, *, lines: bool, several: bool) -> None:
        self._write = write
        self._lines = lines
        self._several = several
        self._objects: list[Record] = []

    def result(self, label: str, record: Record) -> None:
        self.failure(label, record)

    def failure(self, label: str, record: Record) -> None:
        if self._lines:
            self._write(dump(record) + "\n")
        else:
            self._objects.append(record)

    def close(self) -> None:
        objects, self._objects = self._objects, []  # once, also if it is interrupted
        if objects:
            whole = objects if self._several else objects[0]
            self._write(dump(whole, indent=2) + "\n")

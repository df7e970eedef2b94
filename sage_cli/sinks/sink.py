"""What every output of results is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Record", "Sink", "Write"]

Record = Mapping[str, Any]
"""The JSON object of a result or of a failure, see docs/output.md."""
Write = Callable[[str], None]


class Sink(ABC):
    """Takes the records of results and of failures; ``close`` ends the output."""

    @abstractmethod
    def result(self, label: str, record: Record) -> None:
        """One result; ``label`` is the name to display."""

    def segment(self, label: str, segment: Record) -> None:
        """One segment of a video, whose `result` or `failure` follows."""
        return

    def failure(self, label: str, record: Record) -> None:
        """One failure."""
        return

    def close(self) -> None:
        """All records are in, or all that will be."""
        return

    def commit(self) -> None:
        """The run was not interrupted. Called after `close`."""
        return

"""The records of a measurement, as plain data: one line of JSON for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

__all__ = [
    "Counts",
    "Difference",
    "Failure",
    "ItemInfo",
    "Line",
    "Mismatch",
    "Record",
    "Results",
    "first_difference",
]


@dataclass(frozen=True)
class Counts:
    """What a method counted on one item, over all steps after the prefill."""

    steps: int
    accepted: Mapping[int, int]
    """Steps by accepted length, without the bonus token."""
    drafted: Mapping[int, int] = field(default_factory=dict)
    """Steps by the depth of their tree."""
    nodes: int | None = None
    """None for a method that does not report them, as ``draft_passes``."""
    draft_passes: int | None = None


@dataclass(frozen=True)
class Record:
    """One decoding of one item by one method.

    ``prefill`` is seconds until the first ``first_tokens`` tokens, ``decode`` seconds from there
    to the end, ``phases`` seconds by phase where the method reports them. Memory in bytes.
    """

    item: str
    method: str
    repeat: int
    tokens: tuple[int, ...]
    first_tokens: int
    prefill: float
    decode: float
    phases: Mapping[str, float] = field(default_factory=dict)
    counts: Counts | None = None
    peak_memory: int = 0
    lossy: str | None = None
    """The lossy acceptance rule; None for exact methods."""
    comparable: bool = True
    """Whether its text can be compared with the reference's token by token."""

    @property
    def key(self) -> tuple[str, str, int]:
        return self.item, self.method, self.repeat

    @property
    def rate(self) -> float | None:
        """Tokens per second after the first tokens; None where the prefill ended the text."""
        timed = len(self.tokens) - self.first_tokens
        return timed / self.decode if timed > 0 and self.decode > 0 else None

    @property
    def whole_rate(self) -> float | None:
        """Tokens per second including the prefill of both models."""
        seconds = self.prefill + self.decode
        return len(self.tokens) / seconds if seconds > 0 else None


@dataclass(frozen=True)
class ItemInfo:
    """An item that was prepared for all methods."""

    id: str
    category: str
    prompt_tokens: int
    media_seconds: float


@dataclass(frozen=True)
class Mismatch:
    """The first new token at which a text differs from the expected one."""

    position: int
    expected: int | None
    """None if the expected text had ended, as ``got`` if the other had."""
    got: int | None
    margin: float | None = None
    """The target's score of the expected token minus that of the other, after the processors of
    `generate`; None if one text had ended, or if `generate` itself writes other tokens before."""
    near_tie: bool = False
    """Whether rounding explains the margin."""


@dataclass(frozen=True, kw_only=True)
class Difference(Mismatch):
    """The `Mismatch` of a method's text on an item with the reference's."""

    item: str
    method: str


def first_difference(
    expected: Sequence[int], got: Sequence[int]
) -> tuple[int, int | None, int | None]:
    """(position, expected id, other id) of the first difference; None for a text that had ended."""
    for position, (a, b) in enumerate(zip(expected, got, strict=False)):
        if a != b:
            return position, a, b
    position = min(len(expected), len(got))
    want = expected[position] if position < len(expected) else None
    return position, want, got[position] if position < len(got) else None


@dataclass(frozen=True)
class Failure:
    """An item that failed; ``method`` is empty if it could not be prepared for any.

    ``kind`` corresponds to an exit code: ``usage``, ``input``, ``model``, ``memory``, ``other``.
    """

    item: str
    method: str
    repeat: int
    kind: str
    message: str


Line = Record | ItemInfo | Difference | Failure

_TYPES: dict[str, type[Any]] = {
    "run": Record,
    "item": ItemInfo,
    "difference": Difference,
    "failure": Failure,
}


def to_json(line: Line) -> dict[str, Any]:
    """A line as a JSON object; ``line`` in it names the kind of line."""
    name = next(name for name, kind in _TYPES.items() if type(line) is kind)
    return {"line": name, **asdict(line)}


def from_json(data: Mapping[str, Any]) -> Line:
    """The line that `to_json` made an object of, after a round trip through JSON.

    Raises:
        ValueError, TypeError, KeyError: it is not such an object.
    """
    line: Line = msgspec.convert(data, _TYPES[data["line"]], str_keys=True)
    return line


class Results:
    """All lines of a measurement. A later line on the same thing replaces an earlier one."""

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        self.items: dict[str, ItemInfo] = {}
        self.records: dict[tuple[str, str, int], Record] = {}
        self._repeats: dict[tuple[str, str], dict[int, Record]] = {}
        self.differences: dict[tuple[str, str], Difference] = {}
        self._failures: dict[tuple[str, str, int], Failure] = {}
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> None:
        if isinstance(line, Record):
            self.records[line.key] = line
            self._repeats.setdefault((line.item, line.method), {})[line.repeat] = line
            self._failures.pop(line.key, None)
        elif isinstance(line, ItemInfo):
            self.items[line.id] = line
            self._failures.pop((line.id, "", 0), None)
        elif isinstance(line, Difference):
            self.differences[line.item, line.method] = line
        else:
            self._failures[line.item, line.method, line.repeat] = line

    @property
    def failures(self) -> list[Failure]:
        """Failures that no later record replaced."""
        return list(self._failures.values())

    def of(self, item: str, method: str) -> list[Record]:
        """The records of one item by one method, repeats in order."""
        found = self._repeats.get((item, method), {})
        return [found[repeat] for repeat in sorted(found)]

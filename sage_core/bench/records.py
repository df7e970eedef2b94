"""What a measurement leaves behind, as plain data: one line of JSON for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sage_core.errors import InputError, MemoryExhaustedError, ModelError, OptionError

__all__ = ["Counts", "Difference", "Failure", "ItemInfo", "Line", "Record", "Results", "kind_of"]


@dataclass(frozen=True)
class Counts:
    """What a method counted on one item, all steps after the prefill.

    ``nodes`` and ``draft_passes`` are None for a method that does not tell. ``accepted`` holds
    steps by accepted length, ``drafted`` steps by the depth of their tree.
    """

    steps: int
    accepted: Mapping[int, int]
    drafted: Mapping[int, int] = field(default_factory=dict)
    nodes: int | None = None
    draft_passes: int | None = None


@dataclass(frozen=True)
class Record:
    """One decoding of one item by one method.

    ``prefill`` and ``decode`` are seconds until the first ``first_tokens`` tokens and from there
    to the end; ``phases`` are the method's own, where it has any. Memory in bytes.
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
    """The rule by which its text may differ from the target's own; None for exact methods."""
    comparable: bool = True
    """Whether its text can be held against the reference's token by token."""

    @property
    def key(self) -> tuple[str, str, int]:
        return self.item, self.method, self.repeat

    @property
    def rate(self) -> float | None:
        """Tokens a second after the prefill's own; None where the prefill ended the text."""
        timed = len(self.tokens) - self.first_tokens
        return timed / self.decode if timed > 0 and self.decode > 0 else None

    @property
    def whole_rate(self) -> float | None:
        """Tokens a second with the prefill of both models counted in."""
        seconds = self.prefill + self.decode
        return len(self.tokens) / seconds if seconds > 0 else None


@dataclass(frozen=True)
class ItemInfo:
    """An item that was prepared: what all methods were given."""

    id: str
    category: str
    prompt_tokens: int
    media_seconds: float


@dataclass(frozen=True)
class Difference:
    """A text that is not the reference's: the first token that differs, and why it may.

    ``expected`` or ``got`` is None where one of the texts had ended. ``margin`` is the target's
    score of the expected token less that of the other; None where there is nothing to compare.
    """

    item: str
    method: str
    position: int
    expected: int | None
    got: int | None
    margin: float | None
    near_tie: bool


@dataclass(frozen=True)
class Failure:
    """An item that gave nothing; ``method`` is empty where it could not even be prepared.

    ``kind`` is that of the exit codes: ``usage``, ``input``, ``model``, ``memory`` or ``other``.
    """

    item: str
    method: str
    repeat: int
    kind: str
    message: str


Line = Record | ItemInfo | Difference | Failure

_KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (OptionError, "usage"),
    (InputError, "input"),
    (ModelError, "model"),
    (MemoryExhaustedError, "memory"),
    (MemoryError, "memory"),
)


def kind_of(error: BaseException) -> str:
    """The kind that a `Failure` carries for ``error``."""
    if any(base.__name__ == "OutOfMemoryError" for base in type(error).__mro__):  # torch's own
        return "memory"
    return next((name for kind, name in _KINDS if isinstance(error, kind)), "other")


_TYPES: dict[str, type[Any]] = {
    "run": Record,
    "item": ItemInfo,
    "difference": Difference,
    "failure": Failure,
}


def to_json(line: Line) -> dict[str, Any]:
    """A line as JSON has it: ``line`` says which of the four it is."""
    name = next(name for name, kind in _TYPES.items() if type(line) is kind)
    data = {"line": name, **asdict(line)}
    if isinstance(line, Record) and line.counts is not None:
        for table in ("accepted", "drafted"):
            data["counts"][table] = {str(k): v for k, v in data["counts"][table].items()}
    return data


def from_json(data: Mapping[str, Any]) -> Line:
    """What `to_json` made.

    Raises:
        ValueError, TypeError, KeyError: it is no such line.
    """
    fields = dict(data)
    kind = _TYPES[fields.pop("line")]
    if kind is Record:
        fields["tokens"] = tuple(fields["tokens"])
        if fields["counts"] is not None:
            counts = dict(fields["counts"])
            for table in ("accepted", "drafted"):
                counts[table] = {int(k): v for k, v in counts[table].items()}
            fields["counts"] = Counts(**counts)
    line: Line = kind(**fields)
    return line


class Results:
    """All lines of a measurement, by what they concern; a later line replaces an earlier one."""

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
        """What failed and was not done since."""
        return list(self._failures.values())

    def of(self, item: str, method: str) -> list[Record]:
        """The records of one item by one method, repeats in order."""
        found = self._repeats.get((item, method), {})
        return [found[repeat] for repeat in sorted(found)]

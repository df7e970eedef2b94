"""The measurement: every item by every method, interleaved, timed and compared id by id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Protocol

from sage_core.bench.items import Item, Request
from sage_core.bench.records import (
    Counts,
    Difference,
    Failure,
    ItemInfo,
    Line,
    Record,
    Results,
    kind_of,
)
from sage_core.errors import SageError

__all__ = ["Decoded", "Engine", "Input", "Measurement", "Method", "Plan", "Stopwatch", "check"]

_WARM = 32  # tokens of the warm-up: allocations and first calls belong to no method


@dataclass(frozen=True, eq=False)
class Input:
    """A request made ready once for all methods.

    ``inputs`` is what the models' forward takes, on the target's device and in its number format;
    ``options`` are arguments of `generate`; ``limit`` is the greatest number of new tokens and
    ``ends`` the ids that end a text. ``seed`` is of what a sampled text draws, the same for every
    method; None: the text is greedy.
    """

    id: str
    category: str
    inputs: Mapping[str, Any]
    options: Mapping[str, Any]
    limit: int
    ends: frozenset[int] = frozenset()
    prompt_tokens: int = 0
    media_seconds: float = 0.0
    seed: int | None = None

    def limited(self, limit: int) -> Input:
        """The same with at most ``limit`` new tokens."""
        limit = min(limit, self.limit)
        return replace(self, limit=limit, options={**self.options, "max_new_tokens": limit})


@dataclass(frozen=True)
class Decoded:
    """What a method gives back: the ids that it committed, and what it counted."""

    tokens: tuple[int, ...]
    phases: Mapping[str, float] = field(default_factory=dict)
    counts: Counts | None = None
    peak_memory: int = 0
    steps: tuple[Any, ...] = ()
    """The engine's `Step` records, for views; they are not kept with the results."""
    lossy: str | None = None
    """The lossy rule, if one was used: the text need not be the reference's."""
    comparable: bool = True
    """False for a sampled text that was drawn by another stream of numbers than `generate`'s: of
    the same distribution, unless it is lossy, but not the same text."""


class Stopwatch:
    """The clock of one decoding. Methods press it; what it reads is the measurement's own.

    ``wait`` blocks until the device has finished what it was given.
    """

    def __init__(
        self, clock: Callable[[], float] = perf_counter, wait: Callable[[], None] = lambda: None
    ) -> None:
        self._clock = clock
        self._wait = wait
        self._first: float | None = None
        self._end: float | None = None
        self.first_tokens = 0
        wait()
        self._start = clock()

    def first(self, tokens: int = 1) -> None:
        """The prompt is read and the first ``tokens`` ids are there. Only the first call counts."""
        if self._first is None:
            self._wait()
            self._first = self._clock()
            self.first_tokens = tokens

    def end(self) -> None:
        """The last id is there."""
        self._wait()
        self._end = self._clock()

    @property
    def prefill(self) -> float:
        """Seconds from the start to the first tokens."""
        if self._first is None:
            raise SageError("the method did not say when it had its first token")
        return self._first - self._start

    @property
    def decode(self) -> float:
        """Seconds from the first tokens to the end."""
        if self._first is None or self._end is None:
            raise SageError("the method did not say when its text had ended")
        return self._end - self._first


class Method(Protocol):
    """A way to decode."""

    name: str

    def decode(self, item: Input, watch: Stopwatch) -> Decoded:
        """Decode one input, pressing ``stopwatch`` at the first token and at the end."""


class Engine(Protocol):
    """The loaded models, as far as a measurement needs them."""

    def prepare(self, request: Request) -> Input:
        """Open the media and make the inputs."""

    def explain(self, item: Input, expected: Sequence[int], got: Sequence[int]) -> tuple[Any, ...]:
        """(position, expected id, other id, margin, near tie) of the first difference."""

    def text(self, tokens: Sequence[int]) -> str:
        """Ids as text, without special tokens."""

    def stopwatch(self) -> Stopwatch:
        """Start the clock of one decoding."""


@dataclass(frozen=True)
class Plan:
    """What is measured: ``items`` by ``methods``, each ``repeats`` times.

    ``reference`` names the method whose ids and times the others are held against.
    """

    items: tuple[Item, ...]
    methods: tuple[Method, ...]
    reference: str
    repeats: int = 1

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        if len(set(names)) != len(names):
            raise ValueError("two methods have the same name")
        if self.reference not in names:
            raise ValueError(f"the reference {self.reference} is not among the methods")
        if self.repeats < 1:
            raise ValueError("repeats must be at least 1")

    @property
    def total(self) -> int:
        """Decodings in all."""
        return sum(len(i.prompts) for i in self.items) * len(self.methods) * self.repeats

    def order(self, item: int, repeat: int) -> tuple[Method, ...]:
        """The methods in an order that rotates, so that a drifting machine hurts all alike."""
        turn = (item + repeat) % len(self.methods)
        return self.methods[turn:] + self.methods[:turn]


class Measurement:
    """One run of a plan: iterate `lines` for everything that happens, as it happens.

    Args:
        plan: what to measure.
        engine: the loaded models.
        results: what was done before; it is not done again. New lines are added to it.
        watching: called with each new record and what the method gave back.
    """

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        results: Results | None = None,
        watching: Callable[[Record, Decoded], None] = lambda record, decoded: None,
    ) -> None:
        self._plan = plan
        self._engine = engine
        self.results = results if results is not None else Results()
        self._watching = watching
        self._warm = False

    def lines(self) -> Iterator[Line]:
        """Measure what is left. Items that fail give a `Failure` and do not stop the rest."""
        for index, item in enumerate(self._plan.items):
            for line in self._item(index, item):
                self.results.add(line)
                yield line

    def _item(self, index: int, item: Item) -> Iterator[Line]:
        answers: list[str] = []
        for turn, name in enumerate(item.ids):
            yield from self._request(index, item.request(turn, answers))
            if turn + 1 == len(item.ids):
                return
            said = self.results.records.get((name, self._plan.reference, 0))
            if said is None:
                for left in item.ids[turn + 1 :]:
                    message = "the reference method gave no answer to the turn before"
                    yield Failure(left, "", 0, "other", message)
                return
            answers.append(self._engine.text(said.tokens))

    def _request(self, index: int, request: Request) -> Iterator[Line]:
        todo = [
            (repeat, method)
            for repeat in range(self._plan.repeats)
            for method in self._plan.order(index, repeat)
            if (request.id, method.name, repeat) not in self.results.records
        ]
        if not todo and not self._unexplained(request.id):
            return
        try:
            item = self._engine.prepare(request)
        except Exception as error:
            yield Failure(request.id, "", 0, kind_of(error), _one_line(error))
            return
        yield ItemInfo(item.id, item.category, item.prompt_tokens, item.media_seconds)
        if todo and not self._warm:
            self._warm_up(item)
        for repeat, method in todo:
            yield self._decode(item, method, repeat)
        yield from self._explained(item)

    def _warm_up(self, item: Input) -> None:
        for method in self._plan.methods:
            try:
                method.decode(item.limited(_WARM), self._engine.stopwatch())
            except Exception:  # it will fail again, where it is told
                continue
        self._warm = True

    def _decode(self, item: Input, method: Method, repeat: int) -> Record | Failure:
        watch = self._engine.stopwatch()
        try:
            decoded = method.decode(item, watch)
            record = Record(
                item.id,
                method.name,
                repeat,
                decoded.tokens,
                watch.first_tokens,
                watch.prefill,
                watch.decode,
                decoded.phases,
                decoded.counts,
                decoded.peak_memory,
                decoded.lossy,
                decoded.comparable,
            )
            check(record, item.limit, item.ends)
        except Exception as error:
            return Failure(item.id, method.name, repeat, kind_of(error), _one_line(error))
        self._watching(record, decoded)
        return record

    def _unexplained(self, item: str) -> list[tuple[Record, Record]]:
        """Each method's first record that differs from the reference's, with the reference's."""
        expected = self.results.records.get((item, self._plan.reference, 0))
        if expected is None:
            return []
        found = []
        for method in self._plan.methods:
            records = self.results.of(item, method.name)
            wrong = [r for r in records if r.comparable and r.tokens != expected.tokens]
            if wrong and (item, method.name) not in self.results.differences:
                found.append((expected, wrong[0]))
        return found

    def _explained(self, item: Input) -> Iterator[Line]:
        for expected, record in self._unexplained(item.id):
            try:
                told = self._engine.explain(item, expected.tokens, record.tokens)
            except Exception:  # the difference counts, explained or not
                told = (*first_difference(expected.tokens, record.tokens), None, False)
            yield Difference(item.id, record.method, *told)


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


def check(record: Record, limit: int, ends: frozenset[int]) -> None:
    """Refuse a record whose figures cannot be: a method that miscounts is not measured.

    Raises:
        SageError: no tokens, more than the limit, tokens behind the end of the text, or counts
            that do not add up to the tokens.
    """
    new = len(record.tokens)
    if not 1 <= record.first_tokens <= new:
        raise SageError(f"it says that its first pass gave {record.first_tokens} of {new} tokens")
    if new > limit:
        raise SageError(f"it gave {new} tokens where at most {limit} were asked for")
    ended = next((i for i, token in enumerate(record.tokens) if token in ends), new - 1)
    if ended < new - 1:
        raise SageError(f"it goes on behind the end of the text, by {new - 1 - ended}")
    counts = record.counts
    if counts is None:
        return
    if sum(counts.accepted.values()) != counts.steps:
        raise SageError("it miscounts: the accepted lengths are not one a step")
    told = sum((length + 1) * steps for length, steps in counts.accepted.items())
    # A text may end on an accepted token: then the last step adds none of the target's own.
    if new - record.first_tokens not in (told, told - 1):
        raise SageError(
            f"it miscounts: its steps tell of {told} tokens, it gave {new - record.first_tokens}"
        )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

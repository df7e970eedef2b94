"""The measurement: every item by every method, interleaved, timed and compared token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from time import perf_counter
from typing import Any, Protocol

from sage_core.bench.items import Item, Request
from sage_core.bench.records import (
    Counts,
    Difference,
    Failure,
    ItemInfo,
    Line,
    Mismatch,
    Record,
    Results,
    first_difference,
)
from sage_core.errors import SageError, kind_of

__all__ = ["Decoded", "Engine", "Input", "Measurement", "Method", "Plan", "Stopwatch", "check"]

WARM_UP = -1
"""The ``repeat`` of an input that is decoded untimed."""
_WARM_UP_TOKENS = 32


@dataclass(frozen=True, eq=False)
class Input:
    """A request, prepared once for all methods."""

    id: str
    category: str
    inputs: Mapping[str, Any]
    """What the target's forward takes, on its device and in its dtype."""
    options: Mapping[str, Any]
    """Arguments of `generate`."""
    limit: int
    """The maximum number of new tokens."""
    ends: frozenset[int] = frozenset()
    """Token ids that end a text."""
    prompt_tokens: int = 0
    media_seconds: float = 0.0
    """Seconds that opening and preprocessing took."""
    seed: int | None = None
    """Of sampling, the same for every method; None: greedy decoding."""
    repeat: int = 0
    """Which repeat this is, or `WARM_UP`. What a method learns in one must not reach another."""

    def limited(self, limit: int) -> Input:
        """The same with at most ``limit`` new tokens."""
        limit = min(limit, self.limit)
        return replace(self, limit=limit, options={**self.options, "max_new_tokens": limit})


@dataclass(frozen=True)
class Decoded:
    """What a method returns: the token ids that it committed, and its own counts."""

    tokens: tuple[int, ...]
    phases: Mapping[str, float] = field(default_factory=dict)
    counts: Counts | None = None
    peak_memory: int = 0
    steps: tuple[Any, ...] = ()
    """The engine's `Step` records, for views; they are not kept with the results."""
    lossy: str | None = None
    """The lossy rule, if one was used: the text may differ from the reference's."""
    comparable: bool = True
    """False for a sampled text that uses random numbers in another order than `generate` does: it
    has the same distribution, unless the method is lossy, but is another text."""


class Stopwatch:
    """Times one decoding. It starts when it is made; the method calls `first` and `end`.

    Args:
        clock: seconds.
        wait: blocks until the device has finished its queued work.
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
        """The first ``tokens`` ids are committed. Calls after the first have no effect."""
        if self._first is None:
            self._wait()
            self._first = self._clock()
            self.first_tokens = tokens

    def end(self) -> None:
        """The last id is committed."""
        self._wait()
        self._end = self._clock()

    @property
    def prefill(self) -> float:
        """Seconds from the start to the first tokens."""
        if self._first is None:
            raise SageError("the method did not report its first token")
        return self._first - self._start

    @property
    def decode(self) -> float:
        """Seconds from the first tokens to the end."""
        if self._first is None or self._end is None:
            raise SageError("the method did not report the end of its text")
        return self._end - self._first


class Method(Protocol):
    """A way to decode."""

    name: str

    def decode(self, item: Input, stopwatch: Stopwatch) -> Decoded:
        """Decode one input; call ``stopwatch`` at the first committed tokens and at the end."""


class Engine(Protocol):
    """What a measurement needs of the loaded models."""

    def prepare(self, request: Request) -> Input:
        """Open the media and make the inputs."""

    def explain(self, item: Input, expected: Sequence[int], got: Sequence[int]) -> Mismatch:
        """The first difference of two texts, with its margin in the target's scores."""

    def text(self, tokens: Sequence[int]) -> str:
        """Ids as text, without special tokens."""

    def stopwatch(self) -> Stopwatch:
        """Start timing one decoding."""


@dataclass(frozen=True)
class Plan:
    """What is measured: ``items`` by ``methods``, each ``repeats`` times.

    ``reference`` names the method that the others are compared with.
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
        """The methods in rotating order, so that drift of the machine affects all equally."""
        turn = (item + repeat) % len(self.methods)
        return self.methods[turn:] + self.methods[:turn]


class Measurement:
    """One run of a plan: iterate `lines` for everything that happens, as it happens.

    Args:
        plan: what to measure.
        engine: the loaded models.
        results: of an earlier, interrupted run: what they hold is not measured again. New lines
            are added to them.
        on_record: called with each new record and what the method returned.
    """

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        results: Results | None = None,
        on_record: Callable[[Record, Decoded], None] = lambda record, decoded: None,
    ) -> None:
        self._plan = plan
        self._engine = engine
        self.results = results if results is not None else Results()
        self._on_record = on_record
        self._warm = False

    def lines(self) -> Iterator[Line]:
        """Measure what is missing. Items that fail give a `Failure` and do not stop the rest."""
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
                    message = "the reference method has no answer to the turn before"
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
                warm_up = replace(item.limited(_WARM_UP_TOKENS), repeat=WARM_UP)
                method.decode(warm_up, self._engine.stopwatch())
            except Exception:  # it fails again when it is measured, and is reported there
                continue
        self._warm = True

    def _decode(self, item: Input, method: Method, repeat: int) -> Record | Failure:
        stopwatch = self._engine.stopwatch()
        try:
            decoded = method.decode(replace(item, repeat=repeat), stopwatch)
            record = Record(
                item=item.id,
                method=method.name,
                repeat=repeat,
                first_tokens=stopwatch.first_tokens,
                prefill=stopwatch.prefill,
                decode=stopwatch.decode,
                **{name: value for name, value in vars(decoded).items() if name != "steps"},
            )
            check(record, item.limit, item.ends)
        except Exception as error:
            return Failure(item.id, method.name, repeat, kind_of(error), _one_line(error))
        self._on_record(record, decoded)
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
                found = self._engine.explain(item, expected.tokens, record.tokens)
            except Exception:  # the difference counts, explained or not
                found = Mismatch(*first_difference(expected.tokens, record.tokens))
            yield Difference(item=item.id, method=record.method, **asdict(found))


def check(record: Record, limit: int, ends: frozenset[int]) -> None:
    """Refuse an inconsistent record.

    Raises:
        SageError: no tokens, more than the limit, tokens behind the end of the text, or counts
            that do not add up to the tokens.
    """
    new = len(record.tokens)
    if not 1 <= record.first_tokens <= new:
        raise SageError(f"the method reports {record.first_tokens} first tokens of {new}")
    if new > limit:
        raise SageError(f"the method returned {new} tokens, with max_new_tokens {limit}")
    ended = next((i for i, token in enumerate(record.tokens) if token in ends), new - 1)
    if ended < new - 1:
        raise SageError(f"the method returned {new - 1 - ended} tokens behind the end token")
    counts = record.counts
    if counts is None:
        return
    if sum(counts.accepted.values()) != counts.steps:
        raise SageError("inconsistent counts: not one accepted length for each step")
    counted = sum((length + 1) * steps for length, steps in counts.accepted.items())
    # A text may end on an accepted token: then the last step has no bonus token.
    if new - record.first_tokens not in (counted, counted - 1):
        returned = new - record.first_tokens
        raise SageError(f"inconsistent counts: {counted} tokens by its steps, {returned} returned")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

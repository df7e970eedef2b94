"""A fake clock, and methods of known speed whose output can be made wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sage_core.bench.items import Files, Item, Request
from sage_core.bench.measure import Decoded, Input, Stopwatch
from sage_core.bench.records import Counts, Mismatch, first_difference
from sage_core.errors import InputError
from sage_core.trees.steps import PhaseSeconds, Shape, Step
from sage_core.trees.tree import TokenTree

END = 9


class Clock:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeMethod:
    """Decodes ``text`` of an item at ``rate`` tokens per second, after a prefill of one second.

    ``spoil`` changes the tokens, ``counts`` the reported counts; ``fail`` names items that raise an
    error; ``on_call`` is called before each decoding.
    """

    name: str
    clock: Clock
    rate: float = 10.0
    rates: Mapping[str, float] = field(default_factory=dict)
    accepted: int = 0
    spoil: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda tokens: tokens
    counts: Callable[[Counts], Counts] = lambda counts: counts
    fail: tuple[str, ...] = ()
    calls: list[str] = field(default_factory=list)
    repeats: list[int] = field(default_factory=list)
    on_call: Callable[[str], None] = lambda item: None
    lossy: str | None = None
    comparable: bool = True

    def decode(self, item: Input, stopwatch: Stopwatch) -> Decoded:
        if item.limit > 32 or item.id not in self.calls:
            self.on_call(item.id)
        self.calls.append(item.id)
        self.repeats.append(item.repeat)
        if item.id in self.fail:
            raise MemoryError("no room")
        tokens = self.spoil(tuple(item.inputs["text"])[: item.limit])
        self.clock.now += 1.0
        stopwatch.first(1)
        self.clock.now += (len(tokens) - 1) / self.rates.get(item.id, self.rate)
        stopwatch.end()
        counted = _count(len(tokens) - 1, self.accepted)
        phases, steps = {"verify": 0.25, "draft": 0.5}, _steps(tokens)
        counts = self.counts(counted)
        return Decoded(tokens, phases, counts, 2**20, steps, self.lossy, self.comparable)


def _count(tokens: int, accepted: int) -> Counts:
    """Steps of ``accepted`` + 1 tokens, the last one shorter if it must be."""
    lengths: dict[int, int] = {}
    steps, left = 0, tokens
    while left > 0:
        length = min(accepted, left - 1)
        lengths[length] = lengths.get(length, 0) + 1
        left -= length + 1
        steps += 1
    return Counts(steps, lengths, {max(1, accepted): steps}, 4 * steps, 2 * steps)


def _steps(tokens: tuple[int, ...]) -> tuple[Step, ...]:
    """The prefill, and one step whose tree is a single accepted token."""
    first = Step(0, -1, TokenTree(), (), tokens[:1])
    if len(tokens) < 2:
        return (replace(first, finished=True),)
    tree = TokenTree(tokens[1:2], (-1,), (0.5,), (0,))
    rest = Step(
        1, tokens[0], tree, (0,), tokens[1:], Shape(1, 1.0), 1, PhaseSeconds(verify=0.1), True
    )
    return first, rest


class FakeEngine:
    """Inputs whose text is known: the ids in ``texts``, or ten others, then the end token."""

    target_id, draft_id, device, dtype = "fake-target", "fake-draft", "cpu", "float32"

    def __init__(
        self,
        clock: Clock | None = None,
        texts: Mapping[str, Sequence[int]] | None = None,
        limit: int = 64,
    ) -> None:
        self.clock = clock or Clock()
        self.texts = dict(texts or {})
        self.limit = limit
        self.prepared: list[Request] = []

    def prepare(self, request: Request) -> Input:
        if request.id.startswith("bad"):
            raise InputError(f"{request.id}: no such file: check the path")
        self.prepared.append(request)
        text = (*self.texts.get(request.id, (1, 2, 3, 4, 5, 6, 7, 8, 1, 2)), END)
        return Input(
            request.id, request.category, {"text": text}, {}, self.limit, frozenset({END}), 7, 0.5
        )

    def explain(self, item: Input, expected: Sequence[int], got: Sequence[int]) -> Mismatch:
        return Mismatch(*first_difference(expected, got), margin=0.25)

    def text(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))

    def words(self) -> Callable[[int], str]:
        return str

    def stopwatch(self) -> Stopwatch:
        return Stopwatch(self.clock)


def items(*names: str) -> tuple[Item, ...]:
    """One item per name."""
    return tuple(Item(name, Files((name,)), ("What?",), "files") for name in names)

"""Several texts decoded at once: each by its own loop, their passes as one.

Every text, a **row**, runs the loop of `decode` unchanged in a thread of its own, with a
`RowRunner` that hands its pass to a `Table` and waits. The threads are no more than a way to stop
in the middle of a loop: only one of them, or the caller's, ever runs. When all rows wait, those
that wait for the draft get one joint pass together if there are any, else all of them wait for the
target and get theirs. So what is computed never depends on how threads are timed. A row that has
ended gives its seat to the next text.

Every row's text is the one that it would have alone: the same trees checked by the same model. Only
which passes share a call differs, and with it the last bits of a float.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from sage_core.engine.costs.store import CostBook, Learned
from sage_core.errors import OptionError, UnsupportedError
from sage_core.runtime.cpu.runner import PackedRunners, Packs
from sage_core.runtime.ragged_batch import Part, can_join, joint_pass
from sage_core.runtime.runner import Runner
from sage_core.trees.pass_costs import Costs
from sage_core.trees.steps import PhaseSeconds, Step

if TYPE_CHECKING:
    from sage_core.engine.decoder import SpeculativeDecoder
    from sage_core.engine.output import DecodeOutput

T = TypeVar("T")
Outputs = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class PassRequest:
    """A pass that a row waits for: the arguments of `Runner.forward`."""

    runner: Any
    """A `RowRunner`, or a `heads.row.HeadRowRunner`."""
    tokens: Sequence[int]
    depths: Sequence[int]
    visible: np.ndarray
    last: int
    features: Tensor | None = None
    """For a head: (n, size) the feature before each token."""

    def part(self) -> Part:
        """Its share of a joint pass."""
        runner = self.runner
        start = runner.committed + runner._offset
        mask = runner._mask.additive(self.visible, runner.committed)
        return Part(self.tokens, [start + depth for depth in self.depths], mask, runner.cache)


class RowRunner(Runner):
    """Runs a model for one row; its tree passes are made together with those of other rows."""

    watchable = False

    def __init__(self, model: Any, table: Table, packs: Packs | None = None) -> None:
        super().__init__(model)
        self._table = table
        self._packs = packs
        self.way = f"{'packed ' if packs else ''}batches of {table.width}"

    def forward(
        self, tokens: Sequence[int], depths: Sequence[int], visible: np.ndarray, last: int = 0
    ) -> Outputs:
        return self._table.passed(PassRequest(self, tokens, depths, visible, last))

    def alone(self, request: PassRequest) -> Outputs:
        """The pass of this row only."""
        with self._multiplying(len(request.tokens)):
            return super().forward(request.tokens, request.depths, request.visible, request.last)

    def _multiplying(self, tokens: int) -> AbstractContextManager[None]:
        """With packed weights, as `PackedRunner` does."""
        return self._packs.in_use() if self._packs and tokens > 1 else nullcontext()

    @staticmethod
    @torch.inference_mode()
    def together(requests: Sequence[PassRequest]) -> list[Outputs]:
        """The passes of several rows over one model, as one; what `forward` gives, for each."""
        first = requests[0].runner
        with first._multiplying(sum(len(request.tokens) for request in requests)):
            return joint_outputs(requests, first._decoder, first._head)


def joint_outputs(
    requests: Sequence[PassRequest],
    decoder: Any,
    score: Callable[[Tensor], Tensor],
    rows: Tensor | None = None,
) -> list[Outputs]:
    """One pass through ``decoder`` for all requests, scored; ``rows`` as for `joint_pass`."""
    sizes = [len(request.tokens) for request in requests]
    parts = [request.part() for request in requests]
    hidden = joint_pass(decoder, parts, rows).split(sizes)
    asked = [h[-r.last :] if r.last else h for h, r in zip(hidden, requests, strict=True)]
    logits = score(torch.cat(asked)).split([len(one) for one in asked])
    return list(zip(logits, hidden, strict=True))


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What came of one job: its result, or what it raised."""

    number: int
    """Of the job, in the order that they were given in."""
    result: T | None = None
    error: Exception | None = None

    def get(self) -> T:
        """The result. Raises what the job raised."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


class Table:
    """Where rows meet: at most ``width`` texts over one target at a time.

    Args:
        target: the model whose passes wait for all others.
        width: the most rows at once.

    Raises:
        OptionError: a width below 1.
    """

    def __init__(self, target: Any, width: int) -> None:
        check_width(width)
        self.width = width
        self._target = target
        self._rows: list[_Row[Any]] = []
        self._running: _Row[Any] | None = None
        self._book: _OnePlaceBook | None = None
        self.runners: PackedRunners | None = None
        """Makes packed weights, if rows are to use them."""

    def joining(self, decoder: SpeculativeDecoder) -> SpeculativeDecoder:
        """``decoder`` with passes that are made at this table.

        Raises:
            UnsupportedError: its passes are captured, or shared by several processes, or watched.
        """
        if decoder.viskip is not None and self.width > 1:
            raise UnsupportedError(
                "viskip watches the passes of one text: leave it out, or decode one at a time"
            )
        maker = decoder.runner
        if decoder.group is not None or not (maker is Runner or isinstance(maker, PackedRunners)):
            raise UnsupportedError(
                "several texts at once run in eager passes of one process: leave out the runner "
                "and the group"
            )
        joined = copy.copy(decoder)
        if self.width > 1:
            self.runners = maker if isinstance(maker, PackedRunners) else None
            joined.runner = self
            if isinstance(decoder.costs, CostBook):
                self._book = self._book or _OnePlaceBook(decoder.costs, self.width)
                joined.costs = self._book
        return joined

    def __call__(self, model: Any) -> RowRunner:
        """What runs ``model`` for one row."""
        return RowRunner(model, self, self.runners.packs(model) if self.runners else None)

    def for_head(self, head: Any, target: Any) -> Any:
        """What runs a head for one row."""
        from sage_core.engine.batching.head_row import HeadRowRunner

        return HeadRowRunner(head, target, self)

    def run(self, jobs: Iterable[Callable[[], T]]) -> Generator[Outcome[T]]:
        """Do all jobs, each in a row; gives outcomes as jobs end. Closing it ends all rows.

        A job is started when a seat is free. What goes wrong in a pass goes wrong for all its rows.
        """
        waiting = enumerate(jobs)
        try:
            while True:
                while len(self._rows) < self.width and (job := next(waiting, None)) is not None:
                    self._rows.append(_Row(*job))
                if not self._rows:
                    return
                for row in self._rows:
                    if row.request is None:
                        self._resume(row)
                outcomes = [row.outcome for row in self._rows if row.outcome is not None]
                self._rows = [row for row in self._rows if row.outcome is None]
                if outcomes:
                    yield from outcomes
                else:
                    self._pass()
        finally:
            rows, self._rows = self._rows, []
            for row in rows:
                row.close()

    def passed(self, request: PassRequest) -> Outputs:
        """Called by a row: the outputs of its pass, which is made when all rows wait."""
        row = self._running
        if row is None:
            alone: Outputs = request.runner.alone(request)
            return alone
        return row.wait(request)

    def _resume(self, row: _Row[Any]) -> None:
        self._running = row
        row.resume()
        self._running = (
            None  # not after an interruption: the row runs on, to be stopped in `passed`
        )

    def _pass(self) -> None:
        """Make the passes that go first: those of drafts, or else the target's."""
        waiting = [(row, row.request) for row in self._rows if row.request is not None]
        drafts = [(row, r) for row, r in waiting if r.runner.model is not self._target]
        chosen = drafts or waiting
        outputs: Sequence[Outputs | Exception]
        try:
            outputs = self._outputs([request for _, request in chosen])
        except Exception as error:
            outputs = [error] * len(chosen)
        for (row, _), output in zip(chosen, outputs, strict=True):
            row.request, row.outputs = None, output

    def _outputs(self, requests: Sequence[PassRequest]) -> list[Outputs]:
        if len(requests) > 1 and can_join(requests[0].runner.decoder):
            outputs: list[Outputs] = requests[0].runner.together(requests)
            return outputs
        return [request.runner.alone(request) for request in requests]


def generate_batch(
    decoder: SpeculativeDecoder,
    prompts: Iterable[Mapping[str, Any]],
    width: int | None,
    shared: Mapping[str, Any],
) -> list[DecodeOutput]:
    """As `SpeculativeDecoder.generate_batch`, which has the explanation."""
    given = [{**shared, **prompt} for prompt in prompts]
    for name in ("reading", "prepared"):
        if any(name in inputs for inputs in given):
            raise OptionError(f"{name} belongs to one text: leave it out for several at once")
    check_width(1 if width is None else width)
    table = Table(decoder.target, max(1, min(width or len(given), len(given))))
    joined = table.joining(decoder)
    outputs: dict[int, DecodeOutput] = {}
    with closing(table.run(partial(joined.generate, **inputs) for inputs in given)) as outcomes:
        for outcome in outcomes:
            outputs[outcome.number] = outcome.get()
    return [outputs[number] for number in range(len(given))]


def check_width(width: Any) -> None:
    """Refuse what is no number of texts.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise OptionError(f"batch must be a whole number of at least 1: {width!r}")


class _Closed(BaseException):
    """Unwinds a row that is not to go on; no ``except Exception`` holds it up."""


@dataclass(eq=False)
class _Row(Generic[T]):
    """A job in a thread that runs only between `resume` and its next `wait`."""

    number: int
    job: Callable[[], T]
    request: PassRequest | None = None
    outputs: Outputs | Exception | None = None
    outcome: Outcome[T] | None = None
    _thread: Thread | None = None
    _closed: bool = False
    _go: Semaphore = field(default_factory=lambda: Semaphore(0))
    _back: Semaphore = field(default_factory=lambda: Semaphore(0))

    def resume(self) -> None:
        """Let the row run until it waits for a pass or has ended."""
        if self._thread is None:
            # A daemon, so that a second Ctrl-C ends the process also while a row cannot be stopped.
            self._thread = Thread(target=self._work, name=f"row {self.number}", daemon=True)
            self._thread.start()
        else:
            self._go.release()
        self._back.acquire()

    def wait(self, request: PassRequest) -> Outputs:
        """Called in the row's thread: hand in a pass, sleep until it is made."""
        self._stop_if_closed()
        self.request = request
        self._back.release()
        self._go.acquire()
        self._stop_if_closed()
        outputs, self.outputs = self.outputs, None
        if isinstance(outputs, Exception):
            raise outputs
        assert outputs is not None
        return outputs

    def close(self) -> None:
        """Unwind the row, from wherever it is, and wait until it has gone."""
        self._closed = True
        self._go.release()
        if self._thread is not None:
            self._thread.join()

    def _stop_if_closed(self) -> None:
        if self._closed:
            raise _Closed

    def _work(self) -> None:
        try:
            self.outcome = Outcome(self.number, result=self.job())
        except Exception as error:
            self.outcome = Outcome(self.number, error=error)
        except _Closed:
            pass
        finally:
            self._back.release()


class _OnePlaceBook(CostBook):
    """Costs of passes that rows share: one look at the book for all rows.

    The first rows rehearse side by side, so what they time is passes of a full table; a row that
    came later would time passes among others' drafts. The seconds of a row's passes hold time in
    which it waited, so that nothing is learned of them; what a row does by itself between its
    passes is done by all, one after another, and is learned.
    """

    def __init__(self, book: CostBook, width: int) -> None:
        super().__init__()
        self._book = book
        self._width = width
        self._context: int | None = None
        self._costs: Costs | None = None

    def costs(self, key: str, context: int, measure: Callable[[], Costs]) -> Costs:
        self._context = self._context or context
        if self._costs is None:
            costs = self._book.costs(key, self._context, measure)
            self._costs = self._costs or costs
        return self._costs

    def learned(self, pair: str) -> Learned:
        return self._book.learned(pair)

    def keep(self, pair: str, learned: Learned) -> None:
        self._book.keep(pair, learned)

    def learn(self, key: str, context: int, steps: Sequence[Step]) -> None:
        assert self._costs is not None and self._context is not None
        told = [_as_expected(step, self._costs, self._width) for step in steps]
        self._book.learn(key, self._context, told)


def _as_expected(step: Step, costs: Costs, width: int) -> Step:
    """A step whose passes took what they cost, and the rest as long as that of ``width`` rows."""
    seconds = PhaseSeconds(
        draft=float(costs.propose([1])[0]) * step.draft_passes,
        verify=float(costs.verify([len(step.tree) + 1])[0]),
        accept=step.seconds.accept * width,
        commit=step.seconds.commit * width,
    )
    return replace(step, seconds=seconds)

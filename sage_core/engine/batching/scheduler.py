"""Several texts decoded at once: each by its own loop, their passes as one.

Every text, a **row**, runs the loop of `decode` unchanged in a thread of its own, with a
`BatchedRunner` that hands its pass to a `BatchScheduler` and waits. The threads are no more than a way to stop
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
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sage_core.engine.batching.runners import BatchedRunner, Outputs, PassRequest
from sage_core.engine.costs.store import BatchCostStore, CostStore
from sage_core.errors import OptionError, UnsupportedError
from sage_core.runtime.cpu.runner import CpuRunners
from sage_core.runtime.ragged_batch import supports_ragged
from sage_core.runtime.runner import Runner

if TYPE_CHECKING:
    from sage_core.engine.decoder import SpeculativeDecoder
    from sage_core.engine.results import DecodeOutput

T = TypeVar("T")


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


class BatchScheduler:
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
        self._rows: list[_Slot[Any]] = []
        self._running: _Slot[Any] | None = None
        self._book: BatchCostStore | None = None
        self.runners: CpuRunners | None = None
        """Makes packed weights, if rows are to use them."""

    def attach(self, decoder: SpeculativeDecoder) -> SpeculativeDecoder:
        """``decoder`` with passes that are made at this table.

        Raises:
            UnsupportedError: its passes are captured, or shared by several processes, or watched.
        """
        if decoder.viskip is not None and self.width > 1:
            raise UnsupportedError(
                "viskip watches the passes of one text: leave it out, or decode one at a time"
            )
        maker = decoder.runner
        if decoder.group is not None or not (maker is Runner or isinstance(maker, CpuRunners)):
            raise UnsupportedError(
                "several texts at once run in eager passes of one process: leave out the runner "
                "and the group"
            )
        joined = copy.copy(decoder)
        if self.width > 1:
            self.runners = maker if isinstance(maker, CpuRunners) else None
            joined.runner = self
            if isinstance(decoder.costs, CostStore):
                self._book = self._book or BatchCostStore(decoder.costs, self.width)
                joined.costs = self._book
        return joined

    def __call__(self, model: Any) -> BatchedRunner:
        """What runs ``model`` for one row."""
        return BatchedRunner(model, self, self.runners.packs(model) if self.runners else None)

    def for_head(self, head: Any, target: Any) -> Any:
        """What runs a head for one row."""
        from sage_core.engine.batching.runners import BatchedHeadRunner

        return BatchedHeadRunner(head, target, self)

    def run(self, jobs: Iterable[Callable[[], T]]) -> Generator[Outcome[T]]:
        """Do all jobs, each in a row; gives outcomes as jobs end. Closing it ends all rows.

        A job is started when a seat is free. What goes wrong in a pass goes wrong for all its rows.
        """
        waiting = enumerate(jobs)
        try:
            while True:
                while len(self._rows) < self.width and (job := next(waiting, None)) is not None:
                    self._rows.append(_Slot(*job))
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

    def submit(self, request: PassRequest) -> Outputs:
        """Called by a row: the outputs of its pass, which is made when all rows wait."""
        row = self._running
        if row is None:
            alone: Outputs = request.runner.alone(request)
            return alone
        return row.wait(request)

    def _resume(self, row: _Slot[Any]) -> None:
        self._running = row
        row.resume()
        self._running = (
            None  # not after an interruption: the row runs on, to be stopped in `submit`
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
        if len(requests) > 1 and supports_ragged(requests[0].runner.decoder):
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
    table = BatchScheduler(decoder.target, max(1, min(width or len(given), len(given))))
    joined = table.attach(decoder)
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
class _Slot(Generic[T]):
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

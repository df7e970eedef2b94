"""Several texts decoded at once: each by its own loop, their passes as one.

A text is a generator that yields the passes it needs (`runtime.passes`). The scheduler holds some
of them, each in a slot, and advances every one to its next pass. When all of them wait, those that
wait for the draft get one pass together if there are any, otherwise all of them get the target's.
A text that has ended gives its slot to the next.

Every text is the one that it would be alone: the same trees checked by the same model. Only which
passes share a call differs, and with it the last bits of a float.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from sage_core.engine.costs.store import BatchCostStore, CostStore
from sage_core.engine.settings import DecoderSettings
from sage_core.errors import OptionError, UnsupportedError
from sage_core.runtime.passes import Passes
from sage_core.runtime.ragged_batch import run_together, supports_ragged
from sage_core.runtime.tree_runner import Outputs, PassRequest

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
    """Runs texts over one target, at most ``width`` at a time.

    Args:
        target: the model whose passes wait for all others.
        width: the number of slots.

    Raises:
        OptionError: a width below 1.
    """

    def __init__(self, target: Any, width: int) -> None:
        check_width(width)
        self.width = width
        self._target = target
        self._costs: BatchCostStore | None = None

    def attach(self, settings: DecoderSettings) -> DecoderSettings:
        """The settings of texts of this batch: their costs are those of shared passes.

        Raises:
            UnsupportedError: passes of several texts cannot be made together.
        """
        if self.width == 1:
            return settings
        alone = [one.name for one in settings.extensions if one.single_text]
        if alone:
            raise UnsupportedError(
                f"{', '.join(alone)} needs the passes of one text: leave it out, or decode one at "
                "a time"
            )
        if not settings.backend.batches:
            raise UnsupportedError(
                "several texts at once run in eager passes: leave out the backend"
            )
        if not isinstance(settings.costs, CostStore):
            return replace(settings, batch=self.width)
        self._costs = self._costs or BatchCostStore(settings.costs, self.width)
        return replace(settings, batch=self.width, costs=self._costs)

    def run(self, jobs: Iterable[Callable[[], Passes[T]]]) -> Generator[Outcome[T]]:
        """Do all jobs, each in a slot; gives outcomes as jobs end. Closing it ends all jobs.

        A job is started when a slot is free. What a shared pass raises is raised in all its texts.
        """
        waiting = enumerate(jobs)
        slots: list[_Slot[T]] = []
        try:
            while True:
                while len(slots) < self.width and (job := next(waiting, None)) is not None:
                    slots.append(_Slot(*job))
                if not slots:
                    return
                for slot in slots:
                    slot.advance()
                outcomes = [slot.outcome for slot in slots if slot.outcome is not None]
                slots = [slot for slot in slots if slot.outcome is None]
                if outcomes:
                    yield from outcomes
                else:
                    self._run_passes(slots)
        finally:
            for slot in slots:
                slot.close()

    def _run_passes(self, slots: Sequence[_Slot[T]]) -> None:
        """Make the passes that go first: those of a draft, or else the target's."""
        asked = [(slot, slot.request) for slot in slots if slot.request is not None]
        drafts = [model for _, r in asked if (model := r.runner.model) is not self._target]
        model = drafts[0] if drafts else self._target
        chosen = [(slot, request) for slot, request in asked if request.runner.model is model]
        outputs: Sequence[Outputs | Exception]
        try:
            outputs = _outputs([request for _, request in chosen])
        except Exception as error:
            outputs = [error] * len(chosen)
        for (slot, _), output in zip(chosen, outputs, strict=True):
            slot.request, slot.outputs = None, output


def _outputs(requests: Sequence[PassRequest]) -> list[Outputs]:
    if len(requests) > 1 and supports_ragged(requests[0].runner.decoder):
        return run_together(requests)
    return [request.run() for request in requests]


class _Slot(Generic[T]):
    """A job under way: the pass that it waits for, or its outcome."""

    def __init__(self, number: int, job: Callable[[], Passes[T]]) -> None:
        self._number = number
        self._job = job
        self._passes: Passes[T] | None = None
        self.request: PassRequest | None = None
        self.outputs: Outputs | Exception | None = None
        self.outcome: Outcome[T] | None = None

    def advance(self) -> None:
        """Go on with the outputs that have come, up to the next pass or the end."""
        if self.request is not None:
            return
        outputs, self.outputs = self.outputs, None
        try:
            if self._passes is None:
                self._passes = self._job()
                self.request = next(self._passes)
            elif isinstance(outputs, Exception):
                self.request = self._passes.throw(outputs)
            else:
                assert outputs is not None
                self.request = self._passes.send(outputs)
        except StopIteration as end:
            self.outcome = Outcome(self._number, result=end.value)
        except Exception as error:
            self.outcome = Outcome(self._number, error=error)

    def close(self) -> None:
        """End the job, from wherever it is."""
        if self._passes is not None:
            self._passes.close()


def check_width(width: Any) -> None:
    """Refuse what is no number of texts.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise OptionError(f"batch must be a whole number of at least 1: {width!r}")

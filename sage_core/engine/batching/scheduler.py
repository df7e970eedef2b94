"""Decodes several texts at once: each by its own loop, with shared passes.

A text is a generator that yields its passes (`runtime.passes`). The scheduler advances the text in
each slot to its next pass. Then it makes one pass for all texts that wait for the draft, or, if
there are none, for all texts, which wait for the target. A text that has ended frees its slot.

Each text is the one that it would be alone, up to rounding of joint passes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from sage_core.checks import as_integer
from sage_core.engine.costs.store import BatchCostStore, CostStore
from sage_core.engine.settings import DecoderSettings
from sage_core.errors import UnsupportedError
from sage_core.runtime.passes import Passes
from sage_core.runtime.ragged_batch import run_together, supports_ragged
from sage_core.runtime.tree_runner import Outputs, PassRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """The result of a job, or its error."""

    number: int
    """Of the job, in the order of the jobs."""
    result: T | None = None
    error: Exception | None = None

    def get(self) -> T:
        """The result. Raises the job's error."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


class BatchScheduler:
    """Runs texts over one target, at most ``width`` at a time.

    Args:
        target: the model whose passes are made after all others.
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
        """The settings for texts of this batch, with the costs of shared passes.

        Raises:
            UnsupportedError: passes of several texts cannot be made together.
        """
        if self.width == 1:
            return settings
        alone = [one.name for one in settings.extensions if one.single_text]
        if alone:
            raise UnsupportedError(
                f"{', '.join(alone)} works with one text only: leave it out, or decode one text at "
                "a time"
            )
        if not settings.backend.batches:
            raise UnsupportedError(
                "batches are not supported by this backend: leave it out, or decode one text at a "
                "time"
            )
        if not isinstance(settings.costs, CostStore):
            return replace(settings, batch=self.width)
        self._costs = self._costs or BatchCostStore(settings.costs, self.width)
        return replace(settings, batch=self.width, costs=self._costs)

    def run(self, jobs: Iterable[Callable[[], Passes[T]]]) -> Generator[Outcome[T]]:
        """Run all jobs, each in a slot; yields outcomes as jobs end. Closing it ends all jobs.

        A job is started when a slot is free. An error of a shared pass is raised in all its texts.
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
        """Make the passes of a draft together, or else the target's."""
        waiting = [(slot, slot.request) for slot in slots if slot.request is not None]
        drafts = [model for _, r in waiting if (model := r.runner.model) is not self._target]
        model = drafts[0] if drafts else self._target
        chosen = [(slot, request) for slot, request in waiting if request.runner.model is model]
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
    """A running job: the pass that it waits for, or its outcome."""

    def __init__(self, number: int, job: Callable[[], Passes[T]]) -> None:
        self._number = number
        self._job = job
        self._passes: Passes[T] | None = None
        self.request: PassRequest | None = None
        self.outputs: Outputs | Exception | None = None
        self.outcome: Outcome[T] | None = None

    def advance(self) -> None:
        """Continue with the outputs, up to the next pass or the end."""
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
        """End the job."""
        if self._passes is not None:
            self._passes.close()


def check_width(width: Any) -> None:
    """Refuse a batch size that is not an integer of at least 1.

    Raises:
        OptionError: it is not.
    """
    as_integer("batch", width, 1)

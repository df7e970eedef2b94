"""Generators that yield forward passes instead of making them, so that texts can share passes.

Drafting, acceptance and planning are generators that yield a `PassRequest` wherever they need a
forward pass and are sent the outputs. `run_passes` makes the passes of one text one by one;
`engine.batching` makes those of several texts together.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from sage_core.runtime.tree_runner import Outputs, PassRequest

T = TypeVar("T")
E = TypeVar("E")

Passes = Generator[PassRequest, Outputs, T]
"""Yields requests, is sent their outputs, returns a ``T``."""


def run_passes(passes: Passes[T]) -> T:
    """Make all passes one by one; returns what the generator returns."""
    try:
        request = next(passes)
        while True:
            try:
                outputs = request.run()
            except BaseException as error:  # raised where the pass was requested
                request = passes.throw(error)
            else:
                request = passes.send(outputs)
    except StopIteration as end:
        return end.value


def passes_until_event(
    events: Generator[PassRequest | E, Outputs | None, None],
) -> Passes[E | None]:
    """Yield a generator's passes up to its next other event; None when it has returned."""
    try:
        event = next(events)
        while isinstance(event, PassRequest):
            try:
                outputs = yield event
            except BaseException as error:
                event = events.throw(error)
            else:
                event = events.send(outputs)
    except StopIteration:
        return None
    return event

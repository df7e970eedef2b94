"""Code that yields forward passes instead of making them, so that several texts can share them.

Everything between two passes of a text (drafting, acceptance, planning) is written once, as a
generator that yields a `PassRequest` wherever it needs a forward pass and is sent the outputs. One
text alone has its passes made one by one (`run_passes`); several texts have theirs made together
(`engine.batching`).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar, cast

from sage_core.runtime.tree_runner import Outputs, PassRequest

T = TypeVar("T")
E = TypeVar("E")

Passes = Generator[PassRequest, Outputs, T]
"""Code that needs forward passes: yields requests, is sent their outputs, returns a ``T``."""


def next_event(events: Generator[PassRequest | E, Outputs | None, T]) -> E:
    """Advance a generator to its next event that is no pass; passes are made one by one.

    Raises:
        StopIteration: the generator has returned.
    """
    event = next(events)
    while isinstance(event, PassRequest):
        try:
            outputs = event.run()
        except BaseException as error:  # raised where the pass was asked for, so that it cleans up
            event = events.throw(error)
        else:
            event = events.send(outputs)
    return event


def run_passes(passes: Passes[T]) -> T:
    """Make all passes one by one; returns what the generator returns."""
    try:
        next_event(cast(Any, passes))
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a generator of passes yields nothing else")


def passes_until_event(
    events: Generator[PassRequest | E, Outputs | None, None],
) -> Passes[E | None]:
    """Yield a generator's passes up to its next event that is none; None when it has returned."""
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

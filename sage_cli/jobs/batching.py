"""Several files at once: how many, and results in the order of the files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from sage_cli import signals
from sage_cli.jobs.inputs import STDIN
from sage_cli.jobs.request import Request
from sage_cli.options.decoding import AUTO

__all__ = ["batch_size", "in_order"]


def batch_size(batch: str, requests: Sequence[Request], auto: int) -> int:
    """How many of the requests to decode at once; ``auto`` is the number for ``--batch auto``.

    Standard input is read when its turn comes, so with it files go one by one.
    """
    if any(source.name == STDIN for request in requests for source in request.sources):
        return 1
    return min(auto if batch == AUTO else int(batch), len(requests))


class _Numbered(Protocol):
    @property
    def number(self) -> int: ...


Outcome = TypeVar("Outcome", bound=_Numbered)


def in_order(outcomes: Iterable[Outcome], write: Callable[[Outcome], None]) -> None:
    """Write outcomes in the order of their numbers, each as soon as those before it are written.

    After an interruption the finished rest is written before the exception is raised again.
    """
    held: dict[int, Outcome] = {}
    written = 0
    try:
        for outcome in outcomes:
            held[outcome.number] = outcome
            while written in held:
                write(held.pop(written))
                written += 1
    except BaseException as error:
        if signals.raised(error):
            for number in sorted(held):
                write(held[number])
        raise

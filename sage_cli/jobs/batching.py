"""Several files at once: the option, and results told in the order of the files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from sage_cli.jobs.inputs import STDIN
from sage_cli.options.flags import DECODING, setting
from sage_core.errors import OptionError

if TYPE_CHECKING:
    from sage_cli.jobs.request import Request
    from sage_core.engine.batching.scheduler import Outcome

__all__ = ["AUTO", "BATCH", "check_batch", "in_order", "width_of"]

AUTO = "auto"


def _width(given: str | int) -> str:
    """``auto`` or a whole number from 1 on, as it was written; the settings file has numbers."""
    text = str(given)
    if text != AUTO and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise typer.BadParameter(f"{text!r} is neither 'auto' nor a number of files from 1 on")
    return text


BATCH: Any = setting(
    "--batch",
    "Decode so many files at once, each with the text that it has alone; 1 is one after another. "
    "'auto' is what was measured to be fastest on such a device, and 1 where texts are watched as "
    "they are written.",
    DECODING,
    parser=_width,
    metavar="N|auto",
)


def check_batch(batch: str, *, live: bool) -> None:
    """Refuse a live view of several texts at once.

    Raises:
        OptionError: both are asked for.
    """
    if live and batch not in ("1", AUTO):
        raise OptionError("--live shows one text at a time: leave out --batch")


def width_of(batch: str, requests: Sequence[Request], pays: int) -> int:
    """How many of the requests to decode at once; ``auto`` is ``pays``.

    Standard input is read where it stands among the others, so it goes one by one.
    """
    if any(source.name == STDIN for request in requests for source in request.sources):
        return 1
    return min(pays if batch == AUTO else int(batch), len(requests))


def in_order(outcomes: Iterable[Outcome[Any]], tell: Callable[[Outcome[Any]], None]) -> None:
    """Tell outcomes by their numbers from 0 on, each as soon as those before it are told.

    After an interruption the rest of what has ended is told before it goes on.
    """
    held: dict[int, Outcome[Any]] = {}
    told = 0
    try:
        for outcome in outcomes:
            held[outcome.number] = outcome
            while told in held:
                tell(held.pop(told))
                told += 1
    except KeyboardInterrupt:
        for number in sorted(held):
            tell(held[number])
        raise

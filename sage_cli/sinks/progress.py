"""How far a run over many files is, and its summary, on standard error."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from time import monotonic
from typing import TYPE_CHECKING, Any

from sage_cli.console import counted, error_console, say
from sage_cli.sinks.sink import Record, Sink

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["RunProgress", "duration"]

_EVERY = 30.0
"""Seconds between lines where there is no terminal."""
_LISTED = 20
"""Failures that the summary repeats."""


class RunProgress(Sink):
    """A bar on a terminal, else a line now and then; at the end a summary.

    Args:
        total: the number of texts to come.
        bar: whether standard error is a terminal that nothing else is drawn on.
        skipped: numbers of files that were left out, by reason.
    """

    def __init__(self, total: int, *, bar: bool, skipped: Mapping[str, int]) -> None:
        self._total = total
        self._skipped = skipped
        self._failed: list[str] = []
        self._done = self._copies = self._tokens = 0
        self._started = self._said = monotonic()
        self._stack = ExitStack()
        self._bar: Progress | None = self._stack.enter_context(_bar()) if bar else None
        self._task: Any = None
        if self._bar is not None:
            self._task = self._bar.add_task("captions", total=total, more="")

    def result(self, label: str, record: Record) -> None:
        self._done += 1
        if "same_as" in record:
            self._copies += 1
        else:
            self._tokens += (record.get("stats") or {}).get("new_tokens", 0)
        self._advanced()

    def failure(self, label: str, record: Record) -> None:
        message = record["error"]["message"]
        self._failed.append(message if message.startswith(label) else f"{label}: {message}")
        self._advanced()

    def _advanced(self) -> None:
        number = self._done + len(self._failed)
        if self._bar is not None:
            self._bar.update(self._task, completed=number, more=self._rates())
        elif monotonic() - self._said > _EVERY:
            self._said = monotonic()
            left = (self._said - self._started) / number * (self._total - number)
            say(f"{number} of {self._total} done, {self._rates()}, {duration(left)} left")

    def _rates(self) -> str:
        seconds = max(monotonic() - self._started, 1e-3)
        number = self._done + len(self._failed)
        failed = f"{len(self._failed)} failed, " if self._failed else ""
        return f"{failed}{number / seconds:.3g} files/s, {self._tokens / seconds:.3g} tokens/s"

    def close(self) -> None:
        self._stack.close()
        if self._started:
            self._summary()
        self._started = 0.0

    def _summary(self) -> None:
        seconds = monotonic() - self._started
        parts = ["nothing to do"]
        if self._total:
            parts = [f"{self._done} of {self._total} done in {duration(seconds)}, {self._rates()}"]
        if self._copies:
            parts.append(f"{self._copies} of them copies of other files")
        if self._skipped:
            parts.append(f"left out: {counted(self._skipped)}")
        say("; ".join(parts))
        if self._total > _LISTED:
            for failed in self._failed[:_LISTED]:
                say(f"failed: {failed}")
            if len(self._failed) > _LISTED:
                say(f"and {len(self._failed) - _LISTED} more failures (--failures FILE lists all)")


def _bar() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}"), Left())
    return Progress(*columns, console=error_console(), transient=True)


def duration(seconds: float) -> str:
    """A time in words."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"

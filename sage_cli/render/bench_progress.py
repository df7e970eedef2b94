"""The progress of a benchmark on standard error, drawn between decodings, not during one."""

from __future__ import annotations

from time import monotonic
from typing import Any

from sage_cli.console import error_console, say
from sage_core.bench.records import Failure, Line, Record, Results
from sage_core.bench.statistics import median

__all__ = ["Progress"]


class Progress:
    """Shows progress: item, method, speed-up so far, time left.

    It is not drawn by a thread, which would take time from what is measured.
    """

    def __init__(self, enabled: bool, total: int, done: int, reference: str, least: int) -> None:
        self._total = total
        self._done = done
        self._before = done
        self._reference = reference
        self._least = least
        self._ratios: dict[str, dict[str, float]] = {}
        self._started = monotonic()
        self._bar: Any = None
        if enabled:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                BarColumn(bar_width=20),
                TextColumn("{task.description}", markup=False),
                console=error_console(),
                transient=True,
                auto_refresh=False,
            )

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("starting", total=self._total, completed=self._done)
            self._bar.refresh()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        if self._bar is None:
            say(message)
        else:
            from rich.text import Text

            self._bar.console.print(Text(f"sage: {message}"))

    def line(self, line: Line, results: Results) -> None:
        """Count a finished decoding."""
        if isinstance(line, Failure) and not line.method:
            return
        if not isinstance(line, Record | Failure):
            return
        self._done += 1
        if self._bar is None:
            return
        if isinstance(line, Record):
            self._note(line, results)
        self._bar.update(self._task, completed=self._done, description=self._text(line))
        self._bar.refresh()

    def _note(self, record: Record, results: Results) -> None:
        """Update the speed-up of the record's method: the median of its items' ratios."""
        ours = [r.rate for r in results.of(record.item, record.method) if r.rate]
        theirs = [r.rate for r in results.of(record.item, self._reference) if r.rate]
        if ours and theirs and len(record.tokens) >= self._least:
            ratio = (median(ours) or 0.0) / (median(theirs) or 1.0)
            self._ratios.setdefault(record.method, {})[record.item] = ratio

    def _text(self, line: Record | Failure) -> str:
        """The text beside the bar."""
        ratio = median(list(self._ratios.get(line.method, {}).values()))
        speed = f" {ratio:.2f}×" if ratio else ""
        return (
            f"{self._done} of {self._total}, {self._left()} left: {line.item}, {line.method}{speed}"
        )

    def _left(self) -> str:
        finished = max(1, self._done - self._before)
        seconds = (monotonic() - self._started) / finished * max(0, self._total - self._done)
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

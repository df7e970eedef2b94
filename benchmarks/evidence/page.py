"""Tables and figures in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["TIME", "counted", "number", "percent", "span", "table"]

TIME = {
    "wall": "time on the wall",
    "cpu": "processor time of one thread, since other work ran on the machine",
}
"""What each clock of `Bench` reads."""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A table; the first column is left-aligned, the others right."""
    lines = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return lines


def number(value: float | None, digits: int = 2) -> str:
    """A figure; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def span(interval: Sequence[float] | None, digits: int = 2) -> str:
    """``low to high``; a dash where there is none."""
    return "–" if interval is None else " to ".join(f"{end:.{digits}f}" for end in interval)


def counted(method: dict[str, Any]) -> list[str]:
    """What a method of a report counted a step, τ, nodes and draft passes, and its exact texts."""
    return [
        number(method["mean_accepted"]),
        number(method["nodes_per_step"], 1),
        number(method["draft_passes_per_step"]),
        f"{method['exact']}/{method['compared']}",
    ]

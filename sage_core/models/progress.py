"""Progress of loading as one fraction over all stages, and sizes for display."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with a message and the fraction done, from 0 to 1."""


def stage(progress: Progress | None, start: float, end: float) -> Progress:
    """A callback for one stage: its 0 to 1 is reported as ``start`` to ``end``."""

    def report(message: str, fraction: float) -> None:
        if progress is not None:
            progress(message, start + (end - start) * min(max(fraction, 0.0), 1.0))

    return report


def gib(count: float) -> str:
    """A number of bytes for display, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"

"""How far loading has come: one fraction over all its stages, and bytes in words."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with a message and the fraction done, from 0 to 1."""


def stage(progress: Progress | None, start: float, end: float) -> Progress:
    """``progress`` for a part of the whole: 0 to 1 within the part is ``start`` to ``end``."""

    def report(message: str, fraction: float) -> None:
        if progress is not None:
            progress(message, start + (end - start) * min(max(fraction, 0.0), 1.0))

    return report


def gib(count: float) -> str:
    """Bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"

"""The characters of drawings, in Unicode and in plain ASCII."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ASCII", "UNICODE", "Glyphs", "glyphs_for", "sparkline"]


@dataclass(frozen=True)
class Glyphs:
    """Lines of a tree, the bars of a sparkline, and marks."""

    flat: str
    fork: str
    down: str
    tee: str
    last: str
    bars: str
    check: str
    rule: str
    more: str
    dot: str
    alpha: str
    tau: str
    newline: str


UNICODE = Glyphs("─", "┬", "│", "├", "└", "▁▂▃▄▅▆▇█", "✓", "─", "…", "·", "α", "τ", "⏎")
ASCII = Glyphs("-", "+", "|", "+", "`", "._-~=+*#", "*", "-", "~", "|", "alpha", "tau", "\\n")


def glyphs_for(encoding: str | None) -> Glyphs:
    """The characters that a stream of this encoding can show."""
    return UNICODE if (encoding or "").lower().replace("-", "").startswith("utf") else ASCII


def sparkline(values: Iterable[float], low: float, high: float, glyphs: Glyphs) -> str:
    """One character per value, between ``low`` and ``high``."""
    bars = glyphs.bars
    span = high - low
    line = []
    for value in values:
        share = (value - low) / span if span > 0 else 0.5
        line.append(bars[round(min(1.0, max(0.0, share)) * (len(bars) - 1))])
    return "".join(line)

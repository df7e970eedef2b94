"""Bars and lines as small SVG pictures: readable in light and dark, alone or within a page.

Colours are numbers of a palette that colour-blind people can tell apart, 0 to 5.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Line", "Part", "Row", "lines", "rows"]

_WIDTH = 420
_PAD = 12
_ROW = 43  # height of a row: its name, and its bar below
_BAR = 13
_TEXT = 17  # height of a line of text
_PLOT = 220  # height of the plot of lines
_LEFT = 44  # of its axis
_LETTER = 6.8  # about the width of a letter
_STYLE = """
.chart { --back: #fff; --ink: #1f2328; --dim: #57606a; --grid: #d8dee4; --c0: #0072b2;
 --c1: #c04a00; --c2: #00805e; --c3: #a8457e; --c4: #9a6700; --c5: #57606a;
 font: 13px system-ui, sans-serif; fill: var(--ink); }
@media (prefers-color-scheme: dark) { .chart { --back: #0d1117; --ink: #e6edf3; --dim: #9198a1;
 --grid: #30363d; --c0: #56b4e9; --c1: #ff8c42; --c2: #2fbf94; --c3: #e08dbb; --c4: #e6b422;
 --c5: #9198a1; } }
.chart .back { fill: var(--back); } .chart .dim { fill: var(--dim); }
.chart text { paint-order: stroke; stroke: var(--back); stroke-width: 3; }
.chart .grid { stroke: var(--grid); } .chart .ink { stroke: var(--ink); stroke-width: 1.6; }
.chart .end { text-anchor: end; } .chart .mid { text-anchor: middle; }
.chart .line { fill: none; stroke-width: 1.8; } .chart .strong { stroke-width: 3; }
.chart .dot { fill-opacity: .55; } .chart .part { stroke: var(--back); }
"""
# Lines differ by the form of their marks too, and those of one colour by their dashes.
_MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-4-4h8v8h-8z",
    "M0-5L5 4H-5z",
    "M0-5L5 0L0 5L-5 0z",
    "M0 5L5-4H-5z",
    "M-5-2h3v-3h4v3h3v4h-3v3h-4v-3h-3z",
    "M-5-3h10v6h-10z",
)
_DASHES = ("", "7 3", "2 3")


@dataclass(frozen=True)
class Part:
    """A part of a bar, or a name in the legend: ``colour`` is a number of the palette."""

    name: str
    colour: int
    length: float = 0.0


@dataclass(frozen=True)
class Row:
    """One bar: a name above it, its parts side by side, and what is drawn over it."""

    name: str
    value: str
    parts: Sequence[Part] = ()
    dots: Sequence[float] = ()
    mark: float | None = None
    interval: tuple[float, float] | None = None
    colour: int = 0
    """Of the dots."""


@dataclass(frozen=True)
class Line:
    """One line through ``points``; ``strong`` ones are drawn wider."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    strong: bool = False


def rows(title: str, about: str, bars: Sequence[Row], *, at: float | None = None) -> str:
    """Horizontal bars from zero, with a legend if they have several parts, and a line ``at``."""
    most = max((_longest(row) for row in bars), default=0.0)
    ticks = _ticks(max(most, at or 0.0))
    room = _WIDTH - 2 * _PAD

    def x(value: float) -> float:
        return _PAD + room * value / ticks[-1]

    bottom = _PAD + _ROW * len(bars)
    body = [_grid(x(t), _PAD, x(t), bottom) + _text(x(t), bottom + 15, f"{t:g}", "dim mid")
            for t in ticks]  # fmt: skip
    if at is not None:
        body.append(_grid(x(at), _PAD, x(at), bottom, "ink"))
    for i, row in enumerate(bars):
        body.append(_row(row, _PAD + _ROW * i, x))
    down = bottom + 34
    for line in textwrap.wrap(about, _letters(room)):
        body.append(_text(_PAD, down, line, "dim"))
        down += _TEXT
    parts = list({part.name: part for row in bars for part in row.parts}.values())
    if len(parts) > 1:
        down += 6
        for i, part in enumerate(parts):
            left, top = _PAD + i % 4 * room / 4, down + i // 4 * _TEXT
            body.append(f'<rect x="{left:.1f}" y="{top - 11}" width="12" height="12" '
                        f'fill="var(--c{part.colour})"/>')  # fmt: skip
            body.append(_text(left + 17, top, part.name))
        down += math.ceil(len(parts) / 4) * _TEXT
    return _svg(title, down, body)


def _longest(row: Row) -> float:
    bar = sum(part.length for part in row.parts)
    return max(bar, *row.dots, *(row.interval or ()), row.mark or 0.0, 0.0)


def _row(row: Row, top: float, x: Callable[[float], float]) -> str:
    y = top + 20
    middle = y + _BAR / 2
    letters = _letters(_WIDTH - 2 * _PAD) - len(row.value) - 2
    drawn = [_text(_PAD, top + 14, _cut(row.name, letters)),
             _text(_WIDTH - _PAD, top + 14, row.value, "end")]  # fmt: skip
    left = 0.0
    for part in row.parts:
        size = x(left + part.length) - x(left)
        drawn.append(
            f'<rect class="part" x="{x(left):.1f}" y="{y}" width="{size:.1f}" height="{_BAR}" '
            f'fill="var(--c{part.colour})"><title>{escape(part.name)}: {part.length:.2f}</title>'
            "</rect>"
        )
        left += part.length
    for i, value in enumerate(row.dots):
        spread = middle + 8 * ((i * 0.618) % 1 - 0.5)
        drawn.append(f'<circle class="dot" cx="{x(value):.1f}" cy="{spread:.1f}" r="3" '
                     f'fill="var(--c{row.colour})"/>')  # fmt: skip
    if row.interval is not None:
        low, high = (x(end) for end in row.interval)
        drawn += [_grid(low, middle, high, middle, "ink")]
        drawn += [_grid(end, middle - 4, end, middle + 4, "ink") for end in (low, high)]
    if row.mark is not None:
        drawn.append(_grid(x(row.mark), y - 1, x(row.mark), y + _BAR + 1, "ink"))
    return "".join(drawn)


def lines(title: str, across: str, up: str, drawn: Sequence[Line], *, top: float = 0.0) -> str:
    """Lines over whole numbers ``across``, from zero ``up``, with a legend below."""
    xs = [x for line in drawn for x, _ in line.points]
    left, right = min(xs), max(max(xs), min(xs) + 1)
    ups = _ticks(max(top, *(y for line in drawn for _, y in line.points)))
    acrosses = [t for t in _ticks(right, whole=True) if left <= t <= right]
    room, high, low = _WIDTH - _LEFT - 2 * _PAD, _PAD + _TEXT + 4, _PAD + _TEXT + 4 + _PLOT

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / (right - left)
        return _LEFT + room * across, low - (low - high) * y / ups[-1]

    body = [_text(_PAD, _PAD + 10, up, "dim"), _text(_WIDTH - _PAD, low + 34, across, "dim end")]
    for tick in ups:
        y = place(left, tick)[1]
        body.append(
            _grid(_LEFT, y, _WIDTH - _PAD, y) + _text(_LEFT - 8, y + 4, f"{tick:g}", "dim end")
        )
    body += [_text(place(x, 0)[0], low + 18, f"{x:g}", "dim mid") for x in acrosses]
    for i, line in enumerate(drawn):
        alike = sum(before.colour == line.colour for before in drawn[:i])
        points = [place(x, y) for x, y in line.points]
        body.append(_line(alike, line, points) + "".join(_marker(i, line, x, y) for x, y in points))
        y = low + 56 + i * 19
        body.append(_line(alike, line, [(_PAD, y - 4), (_PAD + 34, y - 4)]))
        body.append(
            _marker(i, line, _PAD + 17, y - 4)
            + _text(_PAD + 44, y, _cut(line.name, _letters(_WIDTH - 60)))
        )
    return _svg(title, low + 50 + 19 * len(drawn), body)


def _line(alike: int, line: Line, points: Sequence[tuple[float, float]]) -> str:
    place = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline class="line{" strong" if line.strong else ""}" points="{place}" '
        f'stroke="var(--c{line.colour})" stroke-dasharray="{_DASHES[alike % len(_DASHES)]}"/>'
    )


def _marker(i: int, line: Line, x: float, y: float) -> str:
    return (
        f'<path transform="translate({x:.1f} {y:.1f})" d="{_MARKERS[i % len(_MARKERS)]}" '
        f'fill="var(--c{line.colour})"/>'
    )


def _grid(x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def _letters(width: float) -> int:
    return int(width / _LETTER)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _ticks(most: float, *, whole: bool = False) -> list[float]:
    """From zero to ``most`` or a little more, in steps of 1, 2 or 5 times a power of 10."""
    most = most if most > 1e-6 else 1.0
    power = 10.0 ** math.floor(math.log10(most / 5))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= most / 5 * (1 - 1e-9))
    step = max(1.0, step) if whole else step
    return [round(i * step, 10) for i in range(math.ceil(most / step - 1e-9) + 1)]


def _svg(title: str, height: float, body: Sequence[str]) -> str:
    size = f"{_WIDTH} {height:.0f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {size}" role="img" '
        f'aria-label="{escape(title)}"><style>{_STYLE}</style>'
        f'<rect class="back" width="100%" height="100%"/>{"".join(body)}</svg>\n'
    )

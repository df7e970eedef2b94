"""Figures with matplotlib, without a window or global state."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["bars", "lags", "panels", "reliability", "save", "stacked"]

_INK, _OURS, _OTHER = "#1f2328", "#0969da", "#8c959f"
_COLOURS = ("#0969da", "#bf8700", "#1a7f37", "#8250df", "#cf222e", "#6e7781", "#bf3989", "#0a7e8c")
_LOOK: Any = {
    "svg.hashsalt": "sage",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Line = tuple[Sequence[float], Sequence[float], Sequence[Sequence[float]] | None]
"""x, y, and an interval for each y, if there are any."""


def save(draw: Callable[[Any], Any], data: Any, stem: Path) -> None:
    """Write ``draw(data)`` as STEM.png and STEM.svg; only a remark without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install 'sage-vlm[train]'", file=sys.stderr)
        return
    with matplotlib.rc_context(_LOOK):
        figure = draw(data)
        figure.savefig(stem.with_suffix(".png"), dpi=130)
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def bars(
    rows: Sequence[tuple[str, float, Sequence[float], str]], label: str, ours: Sequence[str]
) -> Any:
    """A bar a row with its interval and a remark, those in ``ours`` in colour; a line at 1."""
    figure = _figure(7.4, 1.0 + 0.27 * len(rows))
    axes = figure.add_subplot()
    most = max(high for _, _, (_, high), _ in rows)
    for place, (name, value, (low, high), remark) in enumerate(rows):
        axes.barh(place, value, height=0.6, color=_OURS if name in ours else _OTHER)
        axes.plot([low, high], [place, place], color=_INK, linewidth=1.3)
        axes.text(most * 1.02, place, remark, va="center", fontsize=7.5)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, most * 1.3)
    axes.axvline(1, color=_INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel(label)
    return figure


def panels(
    charts: Sequence[tuple[str, str, Mapping[str, Line]]],
    *,
    logarithmic: bool = False,
    columns: int | None = None,
) -> Any:
    """Charts side by side, or ``columns`` to a line: title, label of x, lines by name."""
    columns = columns or len(charts)
    lines_of_charts = -(-len(charts) // columns)
    figure = _figure(4.2 * columns, 3.2 * lines_of_charts)
    for place, (title, label, lines) in enumerate(charts, 1):
        axes = figure.add_subplot(lines_of_charts, columns, place)
        for colour, (name, (x, y, spans)) in zip(_COLOURS, lines.items(), strict=False):
            axes.plot(x, y, marker="o", markersize=3.5, color=colour, label=name)
            if spans:
                low, high = zip(*spans, strict=True)
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.set_ylim(bottom=0)
        if logarithmic:
            axes.set_xscale("log", base=2)
            ticks = next(iter(lines.values()))[0]
            axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.grid(color="#d0d7de", linewidth=0.5)
        if len(lines) > 1:
            axes.legend(frameon=False)
    return figure


def stacked(rows: Sequence[tuple[str, Mapping[str, float]]], label: str) -> Any:
    """A stacked bar a row, in percent."""
    figure = _figure(7.4, 1.6 + 0.4 * len(rows))
    axes = figure.add_subplot()
    names = list(dict.fromkeys(name for _, parts in rows for name in parts))
    for place, (_, parts) in enumerate(rows):
        left = 0.0
        for name in names:
            width = 100 * parts.get(name, 0.0)
            colour = _COLOURS[names.index(name) % len(_COLOURS)]
            axes.barh(place, width, left=left, height=0.6, color=colour)
            left += width
    for name, colour in zip(names, _COLOURS, strict=False):
        axes.barh(0, 0, color=colour, label=name)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f"{label}, %")
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.45, -0.3))
    return figure


def lags(charts: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> Any:
    """Autocorrelation by lag: figure with its interval, and the range of chance in grey."""
    figure = _figure(4.2 * len(charts), 3.0)
    for place, (label, rows) in enumerate(charts, 1):
        axes = figure.add_subplot(1, len(charts), place)
        x = [row["lag"] for row in rows]
        below, above = zip(*(row["chance"] for row in rows), strict=True)
        axes.fill_between(x, below, above, color=_OTHER, alpha=0.35, linewidth=0, label="chance")
        axes.plot(x, [row["value"] for row in rows], "o", markersize=4, color=_OURS, label="seen")
        axes.vlines(x, *zip(*(row["interval"] for row in rows), strict=True), color=_OURS)
        axes.axhline(0, color=_INK, linewidth=0.8)
        axes.set_xlabel(label)
        axes.set_ylabel("autocorrelation of entropy")
        axes.legend(frameon=False)
    return figure


def reliability(
    predicted: Mapping[str, Sequence[Mapping[str, Any]]],
    by_alpha: Sequence[Mapping[str, Any]],
    points: Sequence[Sequence[float]],
    alpha: Sequence[float],
    curves: Mapping[str, Sequence[float]],
) -> Any:
    """Three charts: predicted and observed rates; by α; α and the first choice."""
    figure = _figure(11.4, 3.4)
    axes = figure.add_subplot(1, 3, 1)
    axes.plot([0, 1], [0, 1], color=_OTHER, linewidth=0.8)
    for colour, (name, rows) in zip(_COLOURS, predicted.items(), strict=False):
        _with_interval(axes, rows, colour, name)
    axes.set_xlabel("the draft's probability")
    axes.set_ylabel("accepted")
    axes.legend(frameon=False)

    axes = figure.add_subplot(1, 3, 2)
    _with_interval(axes, by_alpha, _OURS, "first choice")
    axes.set_xlabel("confidence α")
    axes.set_ylabel("first choice accepted")
    axes.set_ylim(0, 1.02)

    axes = figure.add_subplot(1, 3, 3)
    x, y = zip(*points, strict=True)
    axes.scatter(x, y, s=4, alpha=0.35, color=_OTHER, linewidth=0, rasterized=True)
    for colour, (name, values) in zip(("#cf222e", "#1a7f37"), curves.items(), strict=True):
        axes.plot(alpha, values, color=colour, label=name)
    axes.set_xlabel("confidence α")
    axes.set_ylabel("first choice among the ten likeliest")
    axes.legend(frameon=False)
    return figure


def _with_interval(axes: Any, rows: Sequence[Mapping[str, Any]], colour: str, name: str) -> None:
    x = [row["mean"] for row in rows]
    axes.plot(
        x, [row["rate"] for row in rows], marker="o", markersize=3.5, color=colour, label=name
    )
    axes.vlines(x, *zip(*(row["interval"] for row in rows), strict=True), color=colour)

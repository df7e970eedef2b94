"""Plots of a benchmark as PNG and SVG, with matplotlib if it is installed."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sage_core.files.atomic_write import write_atomically

__all__ = ["write_plots"]

_INK, _OURS, _OTHER, _REFERENCE = "#1f2328", "#0969da", "#8c959f", "#57606a"
_LINES = ("#bf8700", "#1a7f37", "#8250df", "#cf222e", "#6e7781", "#bf3989", "#0a7e8c", "#953800")
"""Of lines of methods other than `sage`."""
_PHASES = {
    "draft": "#54aeff",
    "plan": "#b6e3ff",
    "verify": "#0969da",
    "accept": "#d4a72c",
    "commit": "#eac54f",
    "decode": "#8c959f",
}
"""Colours by phase; ``decode`` is for methods that report no phases."""


def write_plots(folder: Path, report: Mapping[str, Any]) -> dict[str, str] | None:
    """Write ``NAME.png`` and ``NAME.svg`` of every plot; returns their SVG by title.

    None if matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, str] = {}
    look: Any = {"svg.hashsalt": "sage", "font.size": 9}
    with matplotlib.rc_context({**look, "axes.spines.top": False, "axes.spines.right": False}):
        for name, (title, draw) in _PLOTS.items():
            figure = draw(report)
            if figure is None:
                continue
            figure.savefig(folder / f"{name}.png", dpi=150)
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None})
            write_atomically(folder / f"{name}.svg", text.getvalue())
            drawn[title] = text.getvalue()
    return drawn


def _figure(rows: int, *, height: float = 0.34) -> tuple[Any, Any]:
    """A figure for horizontal rows, without pyplot's global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 1.1 + height * rows), layout="constrained")
    return figure, figure.add_subplot()


def _colour(name: str, reference: str) -> str:
    if name == reference:
        return _REFERENCE
    return _OURS if name.partition(":")[0] == "sage" else _OTHER


def _rows(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color="#d0d7de", linewidth=0.6)
    axes.set_axisbelow(True)


def _speed(report: Mapping[str, Any]) -> Any:
    """Tokens per second with the interval of the median."""
    methods = [m for m in report["methods"] if m["tokens_per_second"] is not None]
    if not methods:
        return None
    figure, axes = _figure(len(methods))
    for row, m in enumerate(methods):
        low, high = m["tokens_per_second_interval"]
        rate = m["tokens_per_second"]
        axes.barh(row, rate, color=_colour(m["name"], report["reference"]), height=0.62)
        axes.plot([low, high], [row, row], color=_INK, linewidth=1.4)
    _rows(axes, [m["name"] for m in methods])
    axes.set_xlabel("tokens per second, median over items, 95% interval")
    return figure


def _items(report: Mapping[str, Any]) -> Any:
    """The speed-up of each item, one dot each, and of the method."""
    reference = report["reference"]
    methods = [m for m in report["methods"] if m["speedup"] is not None and m["name"] != reference]
    if not methods:
        return None
    figure, axes = _figure(len(methods))
    for row, m in enumerate(methods):
        found = [item["methods"].get(m["name"], {}).get("speedup") for item in report["items"]]
        values = [value for value in found if value is not None]
        spread = [row + 0.22 * ((i * 0.618) % 1 - 0.5) for i in range(len(values))]
        axes.scatter(values, spread, s=12, alpha=0.6, color=_colour(m["name"], reference))
        low, high = m["speedup_interval"]
        axes.plot([low, high], [row, row], color=_INK, linewidth=1.4)
        axes.plot(m["speedup"], row, "|", color=_INK, markersize=13, markeredgewidth=2)
    axes.axvline(1, color=_REFERENCE, linewidth=1)
    _rows(axes, [m["name"] for m in methods])
    axes.set_xlabel(f"speed-up over {reference}: items, and ratio of paired medians with 95%")
    return figure


def _line(axes: Any, place: int, name: str, label: str, points: list[tuple[int, float]]) -> None:
    """One method's line; that of `sage` in its own colour and wider."""
    ours = name.partition(":")[0] == "sage"
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        marker="o",
        markersize=3,
        linewidth=2 if ours else 1,
        color=_OURS if ours else _LINES[place % len(_LINES)],
        label=label,
    )


def _accepted(report: Mapping[str, Any]) -> Any:
    """The share of steps by accepted length, without the bonus token."""
    methods = [m for m in report["methods"] if any(int(k) for k in m["accepted_histogram"])]
    if not methods:
        return None
    figure, axes = _figure(8)
    for place, m in enumerate(methods):
        histogram = {int(k): v for k, v in m["accepted_histogram"].items()}
        shares = [(k, 100 * histogram.get(k, 0) / m["steps"]) for k in range(max(histogram) + 1)]
        _line(axes, place, m["name"], f"{m['name']}, τ {m['mean_accepted']:.2f}", shares)
    axes.set_xlabel("accepted length, the bonus token not counted")
    axes.set_ylabel("% of steps")
    axes.legend(frameon=False)
    return figure


def _depths(report: Mapping[str, Any]) -> Any:
    """Of the trees that reach a depth, the share that is accepted to that depth."""
    methods = [m for m in report["methods"] if m["acceptance_by_depth"]]
    if not methods:
        return None
    figure, axes = _figure(8)
    for place, m in enumerate(methods):
        shares = [(row["depth"], 100 * row["accepted"]) for row in m["acceptance_by_depth"]]
        _line(axes, place, m["name"], m["name"], shares)
    axes.set_xlabel("depth")
    axes.set_ylabel("% accepted of trees that reach it")
    axes.set_ylim(0, 102)
    axes.legend(frameon=False)
    return figure


def _time(report: Mapping[str, Any]) -> Any:
    """Milliseconds per token by phase, without the prefill."""
    methods = [m for m in report["methods"] if m["seconds"] and m["new_tokens"]]
    if not methods:
        return None
    figure, axes = _figure(len(methods))
    labelled: set[str] = set()
    for row, m in enumerate(methods):
        own = [phase for phase in _PHASES if phase != "decode" and m["seconds"].get(phase)]
        left = 0.0
        for phase in own or ["decode"]:
            width = 1000 * m["seconds"].get(phase, 0.0) / m["new_tokens"]
            label = None if phase in labelled else phase
            labelled.add(phase)
            axes.barh(row, width, left=left, color=_PHASES[phase], height=0.62, label=label)
            left += width
    _rows(axes, [m["name"] for m in methods])
    axes.set_xlabel("milliseconds per token by phase, without the prefill")
    axes.legend(frameon=False, ncols=6, loc="upper center", bbox_to_anchor=(0.4, -0.28))
    return figure


_PLOTS: dict[str, tuple[str, Callable[[Mapping[str, Any]], Any]]] = {
    "speed": ("Speed", _speed),
    "speedup-by-item": ("Speed-up by item", _items),
    "time-by-phase": ("Where the time goes", _time),
    "accepted-length": ("Accepted length", _accepted),
    "acceptance-by-depth": ("Acceptance by depth", _depths),
}

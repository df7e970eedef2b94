"""The plots of a benchmark as SVG."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_cli.render.charts import Line, Part, Row, lines, rows
from sage_core.files.atomic_write import write_atomically

__all__ = ["write_plots"]

_OURS, _REFERENCE = 0, 5
_OTHERS = (1, 2, 3, 4)
"""Colours; several of the other methods may share one."""
_PHASES = {"draft": 4, "plan": 2, "verify": 0, "accept": 1, "commit": 3, "decode": 5}
"""Colours by phase; ``decode`` is for methods that report no phases."""


def write_plots(folder: Path, report: Mapping[str, Any]) -> dict[str, str]:
    """Write ``NAME.svg`` of every plot that there are figures for; returns them by title."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, str] = {}
    for name, (title, draw) in _PLOTS.items():
        picture = draw(title, report)
        if picture is not None:
            write_atomically(folder / f"{name}.svg", picture)
            drawn[title] = picture
    return drawn


def _colours(report: Mapping[str, Any]) -> dict[str, int]:
    """The colour of each method: `sage` and the reference have their own."""
    found, others = {}, itertools.cycle(_OTHERS)
    for method in report["methods"]:
        name = method["name"]
        if name == report["reference"]:
            found[name] = _REFERENCE
        else:
            found[name] = _OURS if name.partition(":")[0] == "sage" else next(others)
    return found


def _range(interval: Sequence[float], digits: int) -> str:
    return "–".join(f"{end:.{digits}f}" for end in interval)


def _speed(title: str, report: Mapping[str, Any]) -> str | None:
    """Tokens per second with the interval of the median."""
    methods = [m for m in report["methods"] if m["tokens_per_second"] is not None]
    if not methods:
        return None
    colours, bars = _colours(report), []
    for m in methods:
        rate, interval = m["tokens_per_second"], m["tokens_per_second_interval"]
        value = f"{rate:.1f} tokens/s ({_range(interval, 0)})"
        bars.append(
            Row(m["name"], value, [Part("", colours[m["name"]], rate)], interval=tuple(interval))
        )
    return rows(title, "tokens per second: median over items, and its 95% interval", bars)


def _items(title: str, report: Mapping[str, Any]) -> str | None:
    """The speed-up of each item, one dot each, and of the method."""
    reference = report["reference"]
    methods = [m for m in report["methods"] if m["speedup"] is not None and m["name"] != reference]
    if not methods:
        return None
    colours, bars = _colours(report), []
    for m in methods:
        found = [item["methods"].get(m["name"], {}).get("speedup") for item in report["items"]]
        bars.append(
            Row(
                m["name"],
                f"{m['speedup']:.2f} times ({_range(m['speedup_interval'], 2)})",
                dots=[value for value in found if value is not None],
                mark=m["speedup"],
                interval=tuple(m["speedup_interval"]),
                colour=colours[m["name"]],
            )
        )
    about = (
        f"speed-up over {reference}, the line at 1: a dot for each item; the mark is the ratio of "
        "paired medians, with its 95% interval"
    )
    return rows(title, about, bars, at=1.0)


def _time(title: str, report: Mapping[str, Any]) -> str | None:
    """Milliseconds per token by phase, without the prefill."""
    methods = [m for m in report["methods"] if m["seconds"] and m["new_tokens"]]
    if not methods:
        return None
    bars = []
    for m in methods:
        own = [phase for phase in _PHASES if phase != "decode" and m["seconds"].get(phase)]
        parts = [
            Part(phase, _PHASES[phase], 1000 * m["seconds"].get(phase, 0.0) / m["new_tokens"])
            for phase in own or ["decode"]
        ]
        bars.append(Row(m["name"], f"{sum(part.length for part in parts):.2f} ms", parts))
    return rows(title, "milliseconds per token by phase, without the prefill", bars)


def _accepted(title: str, report: Mapping[str, Any]) -> str | None:
    """The share of steps by accepted length, without the bonus token."""
    methods = [m for m in report["methods"] if any(int(k) for k in m["accepted_histogram"])]
    if not methods:
        return None
    colours, drawn = _colours(report), []
    for m in methods:
        histogram = {int(k): v for k, v in m["accepted_histogram"].items()}
        shares = [(k, 100 * histogram.get(k, 0) / m["steps"]) for k in range(max(histogram) + 1)]
        name, colour = f"{m['name']}, τ {m['mean_accepted']:.2f}", colours[m["name"]]
        drawn.append(Line(name, shares, colour, strong=colour == _OURS))
    return lines(
        title, "accepted tokens in a step, the bonus token not counted", "% of steps", drawn
    )


def _depths(title: str, report: Mapping[str, Any]) -> str | None:
    """Of the trees that reach a depth, the share that is accepted to that depth."""
    methods = [m for m in report["methods"] if m["acceptance_by_depth"]]
    if not methods:
        return None
    colours, drawn = _colours(report), []
    for m in methods:
        shares = [(row["depth"], 100 * row["accepted"]) for row in m["acceptance_by_depth"]]
        colour = colours[m["name"]]
        drawn.append(Line(m["name"], shares, colour, strong=colour == _OURS))
    up = "% of the trees that reach a depth: accepted to there"
    return lines(title, "depth in the tree, in tokens", up, drawn, top=100.0)


_PLOTS: dict[str, tuple[str, Callable[[str, Mapping[str, Any]], str | None]]] = {
    "speed": ("Speed", _speed),
    "speedup-by-item": ("Speed-up by item", _items),
    "time-by-phase": ("Where the time goes", _time),
    "accepted-length": ("Accepted length", _accepted),
    "acceptance-by-depth": ("Acceptance by depth", _depths),
}

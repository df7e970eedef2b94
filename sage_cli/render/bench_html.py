"""The HTML report of a benchmark: one file, no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from sage_cli.render.bench import TITLES, cells, notes, pair_name
from sage_cli.render.page import DATA, compact, page
from sage_core.files.atomic_write import write_atomically

__all__ = ["write_html"]


def write_html(
    path: Path,
    report: Mapping[str, Any],
    plots: Mapping[str, str],
    views: Sequence[Mapping[str, Any]],
) -> None:
    """Write the report: table, notes, ``plots`` (SVG by title), items, trees (``views``)."""
    write_atomically(path, html(report, plots, views))


def html(
    report: Mapping[str, Any],
    plots: Mapping[str, str],
    views: Sequence[Mapping[str, Any]],
) -> str:
    """The whole page."""
    template = files("sage_cli.render").joinpath("bench.html").read_text("utf-8")
    pair = pair_name(report)
    shown = [
        {"title": v["item"], "policy": v["method"], "models": pair, "steps": compact(v["steps"])}
        for v in views
    ]
    parts = {
        "TITLE": escape(pair),
        "ABOUT": _about(report),
        "TABLE": _table(TITLES, [cells(method) for method in report["methods"]]),
        "NOTES": "".join(f"<li>{escape(note)}</li>" for note in notes(report)),
        "PLOTS": "".join(_plot(title, svg) for title, svg in plots.items())
        or "<p>No figures to plot.</p>",
        "ITEMS": _items(report),
        "VIEWS": _inline(shown),
        "PAGE": _inline(page(None)),
        "PLACE": _inline(DATA),
    }
    for name, text in parts.items():
        template = template.replace(f"<!--{name}-->", text, 1).replace(f"/*{name}*/null", text, 1)
    return template


def _about(report: Mapping[str, Any]) -> str:
    environment = report["environment"]
    where = environment.get("gpu") or f"{environment['cpu']}, {environment['cores']} cores"
    versions = ", ".join(f"{name} {v}" for name, v in environment["versions"].items())
    plural = "s" if environment["threads"] != 1 else ""
    rows = [
        ("date", environment["date"]),
        ("command", environment["command"]),
        ("machine", f"{where}, {environment['threads']} thread{plural}"),
        ("versions", f"Python {environment['python']}; {versions}"),
    ]
    return "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _items(report: Mapping[str, Any]) -> str:
    """Each item's tokens and speed-ups; texts that differ from the reference's are marked."""
    names = [method["name"] for method in report["methods"]]
    rows = []
    for item in report["items"]:
        reference = item["methods"].get(report["reference"], {})
        row = [item["id"], item["category"], str(reference.get("new_tokens", "–"))]
        for name in names:
            found = item["methods"].get(name)
            speed = "–" if not found or found["speedup"] is None else f"{found['speedup']:.2f}"
            row.append(speed + (" ≠" if found and found["exact"] is False else ""))
        rows.append(row)
    return _table(["item", "category", "tokens", *names], rows)


def _plot(title: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"


def _inline(data: Any) -> str:
    """JSON inside a script element: "<" is escaped, so that no text can end the script."""
    return json.dumps(data).replace("<", "\\u003c")

"""The results of a benchmark as a table, CSV and files, and the comparison of two results."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_cli.console import display_name, is_terminal
from sage_cli.render.jsonout import dump
from sage_cli.render.tables import print_json
from sage_cli.render.tables import print_table as plain_table
from sage_core.models.atomic_write import write_atomically

__all__ = [
    "cells",
    "notes",
    "print_csv",
    "print_diff",
    "print_report",
    "print_table",
    "write_files",
]

TITLES = (
    "method",
    "tokens/s",
    "95%",
    "speed-up",
    "95%",
    "worst",
    "slower",
    "τ",
    "τ+1",
    "nodes",
    "drafts",
    "exact",
)
"""Of the table: tokens/s and speed-up each with its interval; nodes and draft passes per step."""

_CSV = (
    "name",
    "lossy",
    "comparable",
    "items",
    "timed_items",
    "exact",
    "compared",
    "failed",
    "new_tokens",
    "tokens_per_second",
    "speedup",
    "median_item_speedup",
    "end_to_end_speedup",
    "slower_items",
    "worst_item",
    "worst_item_speedup",
    "steps",
    "mean_accepted",
    "mean_acceptance_length",
    "nodes_per_step",
    "draft_passes_per_step",
    "peak_memory",
)
_SHOWN = 8  # differences and failures below the table; all are in the JSON


def cells(method: Mapping[str, Any]) -> list[str]:
    """One row of the table, in the order of `TITLES`."""
    slower = method["slower_items"]
    return [
        method["name"] + (" (lossy)" if method.get("lossy") else ""),
        _number(method["tokens_per_second"], 1),
        _range(method["tokens_per_second_interval"], 0),
        _number(method["speedup"], 2),
        _range(method["speedup_interval"], 2),
        _number(method["worst_item_speedup"], 2),
        "–" if slower is None else f"{100 * slower:.0f}%",
        _number(method["mean_accepted"], 2),
        _number(method["mean_acceptance_length"], 2),
        _number(method["nodes_per_step"], 1),
        _number(method["draft_passes_per_step"], 1),
        f"{method['exact']}/{method['compared']}" if method.get("comparable", True) else "–",
    ]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _range(interval: Sequence[float] | None, digits: int) -> str:
    return "–" if interval is None else f"{interval[0]:.{digits}f}–{interval[1]:.{digits}f}"


def notes(report: Mapping[str, Any]) -> Iterator[str]:
    """How to read the table, then failures and differences."""
    models = report["models"]
    pair = models["target"] + (f" with {models['draft']}" if models["draft"] else "")
    settings = report["settings"]
    times = f"{settings['repeats']} repeat" + ("s" if settings["repeats"] > 1 else "")
    most = max((m["timed_items"] for m in report["methods"]), default=0)
    yield (
        f"{pair}, {report['device']}, {report['dtype']}; {len(report['items'])} items, "
        f"{most} of at least {settings['least']} tokens timed, {times}{_sampled(settings)}"
    )
    yield (
        f"speed-up: median tokens/s over that of {report['reference']} on the same items; worst: "
        "the lowest speed-up of an item; slower: share of items below 1; intervals: 95%, bootstrap "
        "over items; prefill and media are not included"
    )
    yield (
        "τ: accepted draft tokens per step, the bonus token not counted; τ+1: mean acceptance "
        "length with it, as in vLLM; nodes and draft passes per step; exact: texts with the same "
        f"tokens as {report['reference']}'s"
    )
    yield from _not_compared(report["methods"])
    yield from _failures(report)
    for method in report["methods"]:
        yield from _differences(method)


def _sampled(settings: Mapping[str, Any]) -> str:
    fields = settings.get("sampling")
    if fields is None:
        return ""
    given = ", ".join(f"{name} {value}" for name, value in fields.items())
    return f"; sampled with {given or 'the defaults of the model'}, seed {settings['seed']}"


def _not_compared(methods: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Why some texts are not compared."""
    names = [m["name"] for m in methods if not m.get("comparable", True)]
    if names:
        yield (
            f"not comparable under sampling: {', '.join(names)}: one seed gives other texts there, "
            "so tokens are not compared with the reference's, and speeds are those of other texts"
        )


def _failures(report: Mapping[str, Any]) -> Iterator[str]:
    failures = report["failures"]
    for failure in failures[:_SHOWN]:
        item, message = display_name(failure["item"]), failure["message"]
        names = [failure["method"], "" if item in message else item]
        who = ", ".join(name for name in names if name)
        yield f"failed: {who}: {message}" if who else f"failed: {message}"
    if len(failures) > _SHOWN:
        yield f"failed: {len(failures) - _SHOWN} more"


def _differences(method: Mapping[str, Any]) -> Iterator[str]:
    differences = method["differences"]
    rule = method.get("lossy")
    verdict = "not exact" if rule is None else f"lossy by {rule}"
    for found in differences[:_SHOWN]:
        margin = found["margin"]
        if margin is None:
            why = "one text had ended" if None in (found["expected"], found["got"]) else "no margin"
        else:
            why = f"margin {margin:.2g}" + (", a near tie" if found["near_tie"] else "")
        where = f"{display_name(found['item'])} from token {found['position']}"
        yield f"{verdict}: {method['name']}, {where} ({why})"
    if len(differences) > _SHOWN:
        yield f"{verdict}: {method['name']}, {len(differences) - _SHOWN} more"


def print_table(report: Mapping[str, Any]) -> None:
    """Print the table and its notes; a narrow terminal gets no intervals."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = is_terminal(sys.stdout)
    console = Console(file=sys.stdout, highlight=False, width=None if terminal else 10_000)
    wide = console.width >= 118
    kept = [i for i, title in enumerate(TITLES) if wide or title != "95%"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i in kept:
        table.add_column(TITLES[i], justify="left" if i == 0 else "right", overflow="fold")
    for method in report["methods"]:
        row = cells(method)
        style = "bold" if method["name"].partition(":")[0] == "sage" else ""
        table.add_row(*(Text(row[i]) for i in kept), style=style)
    console.print(table)
    for note in notes(report):
        console.print(Text(note), soft_wrap=not terminal)
    sys.stdout.flush()


def print_report(report: Mapping[str, Any]) -> None:
    """Print the whole report as JSON."""
    print_json(report)


def print_csv(report: Mapping[str, Any]) -> None:
    """Print one line per method."""
    sys.stdout.write(as_csv(report))
    sys.stdout.flush()


def as_csv(report: Mapping[str, Any]) -> str:
    """The methods as CSV; phases in columns ``seconds_PHASE``, intervals in two columns."""
    phases = list(dict.fromkeys(p for m in report["methods"] for p in m["seconds"]))
    ends = ("tokens_per_second_interval", "speedup_interval")
    names = [*_CSV, *(f"{end}_{side}" for end in ends for side in ("low", "high"))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, *(f"seconds_{phase}" for phase in phases)])
    for method in report["methods"]:
        row = [method.get(name) for name in _CSV]
        for end in ends:
            row += method[end] or (None, None)
        writer.writerow([*row, *(method["seconds"].get(phase) for phase in phases)])
    return text.getvalue()


def write_files(folder: Path, report: Mapping[str, Any]) -> None:
    """``results.json``, ``results.csv``, ``environment.json`` and ``command.txt``."""
    write_atomically(folder / "results.json", dump(report, indent=1) + "\n")
    write_atomically(folder / "results.csv", as_csv(report))
    environment = json.dumps(report["environment"], indent=1, ensure_ascii=False)
    write_atomically(folder / "environment.json", environment + "\n")
    write_atomically(folder / "command.txt", report["environment"]["command"] + "\n")


def print_diff(found: Mapping[str, Any], names: Sequence[str]) -> None:
    """Print what changed between two runs."""
    rows = []
    for change in found["changes"]:
        low, high = change["interval"]
        verdict = "no change"
        if change["changed"]:
            verdict = "more" if change["ratio"] > 1 else "less"
        rows.append(
            [
                change["method"],
                change["figure"].replace("_", " "),
                f"{change['before']:.2f}",
                f"{change['after']:.2f}",
                f"{change['ratio']:.3f}",
                f"{low:.3f}–{high:.3f}",
                verdict,
            ]
        )
    titles = ("method", "figure", "before", "after", "ratio", "95%", "")
    plain_table(titles, rows, empty="the runs have no figure in common")
    lines = [
        f"before: {names[0]}, after: {names[1]}; {found['items']} items in both, paired by id",
        "more, less: the interval of the ratio excludes 1. Tokens per second also depend on the "
        f"state of the machine; a speed-up is over {found['reference']} in the same run.",
    ]
    for change in found["texts"]:
        what = "now equal to" if change["after"] else "no longer equal to"
        where = display_name(change["item"])
        lines.append(f"{change['method']}, {where}: {what} the reference's text")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()

"""The results of a benchmark as a table, CSV and files, and the comparison of two results."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_cli.console import display_name, is_terminal
from sage_cli.render.jsonout import dump
from sage_cli.render.tables import print_table as plain_table
from sage_core.files.atomic_write import write_atomically

__all__ = [
    "cells",
    "notes",
    "pair_name",
    "print_csv",
    "print_diff",
    "print_table",
    "write_files",
]

_SHOWN = 8  # differences and failures below the table; all are in the JSON


def _name(method: Mapping[str, Any]) -> str:
    return str(method["name"]) + (" (lossy)" if method.get("lossy") else "")


def _number(name: str, digits: int) -> Callable[[Mapping[str, Any]], str]:
    return lambda method: "–" if method[name] is None else f"{method[name]:.{digits}f}"


def _range(name: str, digits: int) -> Callable[[Mapping[str, Any]], str]:
    return lambda method: (
        "–" if method[name] is None else "–".join(f"{end:.{digits}f}" for end in method[name])
    )


def _slower(method: Mapping[str, Any]) -> str:
    return "–" if method["slower_items"] is None else f"{100 * method['slower_items']:.0f}%"


def _exact(method: Mapping[str, Any]) -> str:
    return f"{method['exact']}/{method['compared']}" if method.get("comparable", True) else "–"


_COLUMNS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("method", _name),
    ("tokens/s", _number("tokens_per_second", 1)),
    ("95%", _range("tokens_per_second_interval", 0)),
    ("speed-up", _number("speedup", 2)),
    ("95%", _range("speedup_interval", 2)),
    ("worst", _number("worst_item_speedup", 2)),
    ("slower", _slower),
    ("τ", _number("mean_accepted", 2)),
    ("τ+1", _number("mean_acceptance_length", 2)),
    ("nodes", _number("nodes_per_step", 1)),
    ("drafts", _number("draft_passes_per_step", 1)),
    ("exact", _exact),
)
"""Of the table: titles, and the cell of a method. Nodes and draft passes are per step."""
TITLES = tuple(title for title, _ in _COLUMNS)

_CSV = (
    *("name", "lossy", "comparable", "items", "timed_items", "exact", "compared", "failed"),
    *("new_tokens", "tokens_per_second", "speedup", "median_item_speedup", "end_to_end_speedup"),
    *("slower_items", "worst_item", "worst_item_speedup", "steps", "mean_accepted"),
    *("mean_acceptance_length", "nodes_per_step", "draft_passes_per_step", "peak_memory"),
)


def cells(method: Mapping[str, Any]) -> list[str]:
    """One method in the table, in the order of `TITLES`."""
    return [cell(method) for _, cell in _COLUMNS]


def pair_name(report: Mapping[str, Any]) -> str:
    """The models of a report."""
    models = report["models"]
    return str(models["target"] + (f" with {models['draft']}" if models["draft"] else ""))


def notes(report: Mapping[str, Any]) -> Iterator[str]:
    """How to read the table, then failures and differences."""
    settings = report["settings"]
    times = f"{settings['repeats']} repeat" + ("s" if settings["repeats"] > 1 else "")
    most = max((m["timed_items"] for m in report["methods"]), default=0)
    yield (
        f"{pair_name(report)}, {report['device']}, {report['dtype']}; "
        f"{len(report['items'])} items, {most} of at least {settings['least']} tokens timed, "
        f"{times}{_sampled(settings)}"
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
    if names := [m["name"] for m in report["methods"] if not m.get("comparable", True)]:
        yield (
            f"not comparable under sampling: {', '.join(names)}: one seed gives other texts there, "
            "so tokens are not compared with the reference's, and speeds are those of other texts"
        )
    yield from _failures(report)
    for method in report["methods"]:
        yield from _differences(method)


def _sampled(settings: Mapping[str, Any]) -> str:
    fields = settings.get("sampling")
    if fields is None:
        return ""
    given = ", ".join(f"{name} {value}" for name, value in fields.items())
    return f"; sampled with {given or 'the defaults of the model'}, seed {settings['seed']}"


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
        verdict = ("more" if change["ratio"] > 1 else "less") if change["changed"] else "no change"
        names_of = [change["method"], change["figure"].replace("_", " ")]
        figures = [f"{change['before']:.2f}", f"{change['after']:.2f}", f"{change['ratio']:.3f}"]
        rows.append([*names_of, *figures, _range("interval", 3)(change), verdict])
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

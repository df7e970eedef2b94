"""Tables and JSON documents on standard output."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sage_cli.console import is_terminal
from sage_cli.render.jsonout import dump

__all__ = ["print_json", "print_table"]

_WIDE = 10_000  # columns of a table that is not printed to a terminal: nothing is wrapped or cut


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON document."""
    sys.stdout.write(dump(data, indent=2) + "\n")
    sys.stdout.flush()


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str = "") -> None:
    """A table; wrapped to a terminal's width, each line whole elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows and empty:
        sys.stdout.write(empty + "\n")
        return
    terminal = is_terminal(sys.stdout)
    console = Console(file=sys.stdout, highlight=False, width=None if terminal else _WIDE)
    headed = any(titles)
    table = Table(box=box.SIMPLE_HEAD if headed else None, show_header=headed, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    sys.stdout.flush()

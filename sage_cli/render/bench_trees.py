"""The trees of selected items, kept while a benchmark runs, for its HTML report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from sage_cli.console import clean
from sage_cli.render.page import step_data
from sage_core.bench.measure import Decoded
from sage_core.bench.records import Record
from sage_core.errors import InputError, OptionError
from sage_core.files.reading import parse_json, read_lines

__all__ = ["TreeKeeper", "chosen_ids"]

_FILE = "trees.jsonl"


def chosen_ids(wanted: str, ids: Sequence[str]) -> frozenset[str]:
    """The ids that ``--trees`` selects: ids between commas, or the number of the first ones.

    Raises:
        OptionError: an id that is not among ``ids``.
    """
    if wanted.strip().isdecimal():
        return frozenset(ids[: int(wanted)])
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in ids:
            raise OptionError(f"--trees: there is no item {name!r}: give ids or a number")
    return frozenset(names)


class Texts(Protocol):
    """Converts token ids to text."""

    def words(self) -> Any: ...

    def text(self, tokens: Sequence[int]) -> str: ...


class TreeKeeper:
    """Keeps the steps of each method's first repeat on the selected items.

    Args:
        texts: converts token ids to text.
        chosen: ids of the items.
        folder: where steps are kept, also for a resumed run; None keeps nothing.
    """

    def __init__(self, texts: Texts, chosen: frozenset[str], folder: Path | None) -> None:
        self._texts = texts
        self._chosen = chosen
        self._path = folder / _FILE if folder is not None else None

    def add(self, record: Record, decoded: Decoded) -> None:
        """Keep the steps of a finished decoding, if it is a selected one."""
        if self._path is None or record.repeat or record.item not in self._chosen:
            return
        if not decoded.steps:
            return
        word = self._texts.words()
        tokens: list[int] = []
        steps = []
        for step in decoded.steps:
            tokens += step.tokens
            shown = self._texts.text(tokens)
            steps.append(
                step_data(step, shown, lambda t: "" if t < 0 else clean(word(t), keep="\n"))
            )
        line = {"item": record.item, "method": record.method, "steps": steps}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def views(self) -> list[dict[str, Any]]:
        """``item``, ``method`` and ``steps`` of each; the latest if there are several."""
        if self._path is None or not self._path.exists():
            return []
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for _, line in read_lines(self._path):
            try:
                data = parse_json(line, self._path, any_number=True)
                found[data["item"], data["method"]] = data
            except (InputError, TypeError, KeyError):  # its writing was interrupted
                continue
        return list(found.values())

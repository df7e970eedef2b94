"""The trees of chosen items, kept while a benchmark runs, for its HTML report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from sage_cli.console import clean
from sage_cli.render.page import step_data
from sage_core.bench.measure import Decoded
from sage_core.bench.records import Record
from sage_core.errors import OptionError

__all__ = ["TreeKeeper", "chosen_ids"]

_FILE = "trees.jsonl"


def chosen_ids(wanted: str, ids: Sequence[str]) -> frozenset[str]:
    """What ``--trees`` names: ids between commas, or how many of the first.

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
    """What turns ids into text."""

    def words(self) -> Any: ...

    def text(self, tokens: Sequence[int]) -> str: ...


class TreeKeeper:
    """Keeps each method's first run over the chosen items, step by step.

    Args:
        texts: what turns ids into text.
        chosen: ids of the items.
        folder: where they are kept, also for a run that goes on later; None keeps nothing.
    """

    def __init__(self, texts: Texts, chosen: frozenset[str], folder: Path | None) -> None:
        self._texts = texts
        self._chosen = chosen
        self._path = folder / _FILE if folder is not None else None

    def watch(self, record: Record, decoded: Decoded) -> None:
        """A decoding has finished."""
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
        """What was kept: ``item``, ``method`` and ``steps`` of each, the latest where there are
        several."""
        if self._path is None or not self._path.exists():
            return []
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                data = json.loads(line)
            except ValueError:  # broken off while it was written
                continue
            found[data["item"], data["method"]] = data
        return list(found.values())

"""The output folder: lines as they are finished, and what to go on from after a break."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_core.bench.records import Line, Results, from_json, to_json
from sage_core.errors import InputError, OptionError

__all__ = ["LINES", "PLAN", "Store"]

LINES = "items.jsonl"
PLAN = "plan.json"
_CALIBRATION = "calibration.json"


class Store:
    """Keeps a run in a folder, so that one that breaks off can go on.

    ``plan`` is what decides the results: items, methods, models, options. A folder that holds a
    run of another plan is refused, because its lines would not belong to this one.

    Raises:
        OptionError: the folder cannot be made, or holds another run or other files.
        InputError: what it holds cannot be read.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder = folder
        self.results = Results()
        self.resumed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / PLAN).exists():
                self._resume(plan)
            else:
                if any(folder.iterdir()):
                    raise OptionError(f"--output {folder}: holds other files: name a new folder")
                text = json.dumps(plan, indent=1)
                (folder / PLAN).write_text(text + "\n", encoding="utf-8")
            self._file = (folder / LINES).open("a", encoding="utf-8")
        except OSError as error:
            raise OptionError(f"--output {folder}: {error.strerror or error}") from error

    def _resume(self, plan: Mapping[str, Any]) -> None:
        there = read_json(self.folder / PLAN)
        if there != json.loads(json.dumps(plan)):
            changed = sorted(key for key in {*there, *plan} if there.get(key) != plan.get(key))
            raise OptionError(
                f"--output {self.folder}: holds a run with other {', '.join(changed)}: "
                "name a new folder"
            )
        path = self.folder / LINES
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            try:
                self.results.add(from_json(json.loads(line)))
            except (ValueError, TypeError, KeyError) as error:
                if number == len(lines):  # the line that was being written when the run broke off
                    path.write_text("".join(lines[:-1]), encoding="utf-8")
                    break
                raise InputError(f"{path}:{number}: is no line of a benchmark") from error
        else:
            if lines and not lines[-1].endswith("\n"):
                path.write_text("".join(lines) + "\n", encoding="utf-8")
        self.resumed = bool(self.results.records)

    def add(self, line: Line) -> None:
        """Append a line and write it through."""
        self._file.write(json.dumps(to_json(line)) + "\n")
        self._file.flush()

    @property
    def calibration(self) -> dict[str, Any]:
        """What was chosen on other items, by method; empty before."""
        path = self.folder / _CALIBRATION
        return read_json(path) if path.exists() else {}

    def keep_calibration(self, chosen: Mapping[str, Any]) -> None:
        text = json.dumps(chosen, indent=1)
        (self.folder / _CALIBRATION).write_text(text + "\n", encoding="utf-8")

    def close(self) -> None:
        self._file.close()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: it cannot be read, or is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read: {reason}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: is no JSON object")
    return data

"""The output folder: lines as they are measured, and resuming an interrupted run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sage_core.bench.records import Line, Results, from_json, to_json
from sage_core.errors import InputError, OptionError
from sage_core.files.atomic_write import write_atomically
from sage_core.files.reading import LIST_LIMIT, parse_json, read_bytes, read_json, split_lines

__all__ = ["LINES", "PLAN", "Store"]

LINES = "items.jsonl"
PLAN = "plan.json"
_CALIBRATION = "calibration.json"


class Store:
    """Keeps a run in a folder, so that an interrupted run can be resumed.

    Args:
        folder: is made if it does not exist.
        plan: what determines the results: items, methods, models, options. A folder with a run of
            another plan is refused.

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
                write_atomically(folder / PLAN, json.dumps(plan, indent=1) + "\n")
            self._file = (folder / LINES).open("a", encoding="utf-8")
        except OSError as error:
            raise OptionError(f"--output {folder}: {error.strerror or error}") from error

    def _resume(self, plan: Mapping[str, Any]) -> None:
        there = read_json(self.folder / PLAN, dict, any_number=True)
        if there != json.loads(json.dumps(plan)):
            changed = sorted(key for key in {*there, *plan} if there.get(key) != plan.get(key))
            raise OptionError(
                f"--output {self.folder}: holds a run with other {', '.join(changed)}: "
                "name a new folder"
            )
        path = self.folder / LINES
        if not path.exists():
            return
        # The last line may end within a character.
        text = read_bytes(path, limit=LIST_LIMIT).decode("utf-8", errors="replace")
        lines = split_lines(text)
        for number, line in enumerate(lines, 1):
            try:
                self.results.add(from_json(parse_json(line, path, any_number=True)))
            except (InputError, ValueError, TypeError, KeyError) as error:
                if number < len(lines):
                    raise InputError(f"{path}:{number}: not a line of sage bench") from error
                lines.pop()  # was being written when the run was interrupted
        whole = "".join(f"{line}\n" for line in lines)
        if whole != text:
            write_atomically(path, whole)
        self.resumed = bool(self.results.records)

    def add(self, line: Line) -> None:
        """Append a line and flush it.

        Raises:
            OSError: it cannot be written, with the file's name.
        """
        try:
            self._file.write(json.dumps(to_json(line)) + "\n")
            self._file.flush()
        except OSError as error:
            path = str(self.folder / LINES)
            raise OSError(error.errno, error.strerror, path) from error

    @property
    def calibration(self) -> dict[str, Any]:
        """The settings that were chosen on other items, by method; empty at first."""
        path = self.folder / _CALIBRATION
        return read_json(path, dict, any_number=True) if path.exists() else {}

    def keep_calibration(self, chosen: Mapping[str, Any]) -> None:
        write_atomically(self.folder / _CALIBRATION, json.dumps(chosen, indent=1) + "\n")

    def close(self) -> None:
        with suppress(OSError):  # the failed write has been reported
            self._file.close()

"""Values by step in files: CSV always, TensorBoard on request."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_core.errors import OptionError

LOG = "log.csv"
_COLUMNS = ("step", "seconds", "name", "value")


class Log:
    """``log.csv`` in the output folder, one line per value.

    Args:
        step: the step that the run resumes from: later lines are dropped; 0 starts a new file.
        tensorboard: write event files to ``folder``/tensorboard too.

    Raises:
        OptionError: TensorBoard is not installed.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, step: int = 0, *, tensorboard: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LOG
        kept: list[list[str]] = []
        if step and self._path.is_file():
            with self._path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))[1:]
            rows = [row for row in rows if len(row) == len(_COLUMNS)]
            kept = [row for row in rows if row[0].isdecimal() and int(row[0]) <= step]
        with self._path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([_COLUMNS, *kept])
        self._board = _board(folder / "tensorboard", step) if tensorboard else None

    def write(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for name, value in values.items():
                writer.writerow([step, f"{seconds:.1f}", name, f"{value:.6g}"])
                if self._board is not None:
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise OptionError(
            "tensorboard is not installed: pip install 'sage-vlm[distill]'"
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)

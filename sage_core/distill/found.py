"""What a run of training has to go on, looked at before its target is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sage_core.distill.data import Sample, read_samples
from sage_core.distill.state import STATE
from sage_core.errors import InputError

__all__ = ["Found", "find"]


@dataclass(frozen=True)
class Found:
    """What a run is to learn from, and a line on each thing that is left out."""

    samples: list[Sample]
    notes: list[str]


def find(data: str | Path, output: Path, *, resume: bool = False) -> Found:
    """What `run.distill` can look at without a target, which may take minutes to load.

    Args:
        data: a folder of pictures and clips, or a ``.jsonl`` file, see `data.read_samples`.
        output: where the draft will go.
        resume: whether a run in ``output`` is to go on.

    Raises:
        InputError: nothing can be used, or ``output`` holds a run that is not to go on.
    """
    if not resume and (output / STATE).is_file():
        raise InputError(f"{output}: holds a run: go on with --resume, or use another folder")
    notes: list[str] = []
    return Found(read_samples(data, notes.append), notes)

"""A run's state on disk, whole at any moment: written beside its place, then moved there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sage_core.errors import InputError
from sage_core.models.quiet import is_memory_error

__all__ = ["STATE", "load_state", "save_state", "write_errors"]

STATE = "state.pt"


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Give a write that failed in torch or safetensors, whose errors are their own, as OSError."""
    from safetensors import SafetensorError

    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if is_memory_error(error):
            raise
        raise OSError(f"{folder}: cannot be written: {error}") from error


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``folder``; the one before stays until this one is whole.

    Raises:
        OSError: it cannot be written, for instance because the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / (STATE + ".tmp")
    try:
        with write_errors(folder), beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(folder / STATE)
    finally:
        beside.unlink(missing_ok=True)


def load_state(folder: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """The state in ``folder``; None if there is none.

    Args:
        plan: what must be as it was, or the run would not be the same.

    Raises:
        InputError: damaged, or of another plan.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        before = state["plan"]
    except Exception as error:  # torch.load raises of many kinds
        raise InputError(f"{path}: is damaged: start again in another folder") from error
    for name, value in plan.items():
        if before.get(name) != value:
            raise InputError(
                f"{path}: is of a run with another {name}, {before.get(name)!r} and not {value!r}: "
                "use the same, or another folder"
            )
    return state

"""The state of a run on disk, replaced atomically."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sage_core.errors import InputError, is_memory_error
from sage_core.files.atomic_write import replacing

STATE = "state.pt"


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Turn the errors of torch and safetensors while writing into OSError."""
    from safetensors import SafetensorError

    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if is_memory_error(error):
            raise
        raise OSError(f"{folder}: cannot be written: {error}") from error


def check_output(folder: Path) -> None:
    """Raise `InputError` for an output folder that holds the state of a run."""
    if (folder / STATE).is_file():
        raise InputError(f"{folder}: holds a run: continue it with --resume or use another folder")


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``folder``; the previous one stays until this one is complete.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = replacing(folder / STATE, sync=True)
    with write_errors(folder), place as scratch, scratch.open("wb") as file:
        torch.save(state, file)


def load_state(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The state in ``folder``; None if there is none.

    Args:
        identity: options and inputs that must be the same in a resumed run.

    Raises:
        InputError: damaged, or of a run with another identity.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        before = state["plan"]
    except Exception as error:  # torch.load raises many types
        raise InputError(f"{path}: is damaged: start a new run in another folder") from error
    for name, value in identity.items():
        if before.get(name) != value:
            raise InputError(
                f"{path}: is of a run with another {name}, {before.get(name)!r} instead of "
                f"{value!r}: use the same or another folder"
            )
    return state

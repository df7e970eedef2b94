"""What identifies a result: the file, the model, the prompt and the options that change text."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_core.errors import InputError

__all__ = ["FileState", "digest", "key_of", "shard_of"]

_SPEED = (
    "policy draft draft_revision draft_device draft_pruning draft_pruning_method draft_lookup "
    "draft_vocab viskip phase_times reproducible trust_remote_code"
)
SPEED_ONLY = frozenset(_SPEED.split())
"""Options that do not change the text."""


@dataclass(frozen=True)
class FileState:
    """What tells without reading it whether a file is still the same."""

    path: str
    size: int
    """Bytes."""
    modified: int
    """Nanoseconds since 1970."""

    @classmethod
    def of(cls, path: str) -> FileState:
        """The state of a file.

        Raises:
            InputError: there is none.
        """
        try:
            found = Path(path).stat()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"{path}: {reason}") from error
        return cls(os.path.abspath(path), found.st_size, found.st_mtime_ns)  # noqa: PTH100

    def check(self) -> None:
        """Refuse a result of a file that was written while it was read.

        Raises:
            InputError: the file has changed, or is gone.
        """
        if FileState.of(self.path) != self:
            raise InputError(f"{self.path}: changed while it was read: try it again")


def digest(path: str) -> str:
    """SHA-256 of a file's content.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def key_of(file: FileState | str, prompt: str | None, options: Mapping[str, Any]) -> str:
    """The key of a text: 32 hexadecimal digits.

    Args:
        file: its state, or the digest of its content.
        prompt: as it is given to the model; None: the default one.
        options: of `sage_core.load` and `Options`; those that change no text are left out.
    """
    identity = file if isinstance(file, str) else [file.path, file.size, file.modified]
    chosen = {name: value for name, value in options.items() if name not in SPEED_ONLY}
    return _hash([identity, prompt, chosen])[:32]


def shard_of(name: str, shards: int) -> int:
    """The shard of a file, from 0, by its path below the folder: equal on all machines."""
    return int(_hash(name)[:16], 16) % shards


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()

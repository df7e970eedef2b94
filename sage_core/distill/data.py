"""What is trained on: a folder of pictures and clips, or lines of JSON that name them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sage_core.errors import InputError
from sage_core.media.sniff import HEAD, kind_of

__all__ = ["Sample", "order", "read_samples", "split"]

_PROMPTS, _FILES = ("prompt", "question"), ("image", "video", "images")
_FIELDS = (*_PROMPTS, *_FILES, "answer", "id")
_MOST_HELD_OUT = 16

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Sample:
    """Media with a prompt and perhaps an answer."""

    name: str
    """What messages call it: its file, or its line of the list."""
    files: tuple[str, ...]
    prompt: str | None = None
    """None asks for a caption with the usual prompt."""
    answer: str | None = None
    """None lets the target write it."""


def read_samples(data: str | Path, notice: Notice) -> list[Sample]:
    """All samples of a folder or a ``.jsonl`` file; what cannot be used goes to ``notice``.

    A line is an object with ``prompt`` (or ``question``), with ``image``, ``video`` or ``images``
    (paths beside the file) or none of them, and perhaps an ``answer``.

    Raises:
        InputError: nothing is there, or nothing of it can be used.
    """
    path = Path(data)
    if path.is_dir():
        samples = [
            Sample(str(file), (str(file),)) for file in sorted(path.rglob("*")) if _is_media(file)
        ]
        if not samples:
            raise InputError(f"{path}: there is no picture and no clip in this folder")
        return samples
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file: check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: neither a folder nor a list of JSON lines in UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    found = list(_read_lines(path, lines, notice))
    if not found:
        raise InputError(f"{path}: there is nothing in this list that can be used")
    return found


def _read_lines(path: Path, lines: list[str], notice: Notice) -> Iterator[Sample]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            yield _sample(where, path.parent, json.loads(line))
        except ValueError as error:
            what = "is no JSON" if isinstance(error, json.JSONDecodeError) else str(error)
            notice(f"{where}: {what}: left out")


def _sample(where: str, folder: Path, line: Any) -> Sample:
    if not isinstance(line, dict):
        raise ValueError("is no JSON object")
    if unknown := [name for name in line if name not in _FIELDS]:
        raise ValueError(f"unknown field {unknown[0]!r}")
    for names in (_PROMPTS, _FILES):
        if len(given := [name for name in names if name in line]) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
    texts = [_text(line, name) for name in _PROMPTS if name in line]
    files: list[str] = []
    for name in _FILES:
        value = line.get(name, [])
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise ValueError(f"{name} must be a path or a list of paths")
        files += [str(folder / one) for one in values]
    if not texts and not files:
        raise ValueError("has neither a prompt nor a file")
    if missing := [file for file in files if not Path(file).is_file()]:
        raise ValueError(f"no such file: {missing[0]}")
    answer = _text(line, "answer") if line.get("answer") is not None else None
    return Sample(where, tuple(files), texts[0] if texts else None, answer)


def _text(line: dict[str, Any], name: str) -> str:
    if not isinstance(line[name], str) or not line[name].strip():
        raise ValueError(f"{name} must be a text")
    return str(line[name])


def _is_media(path: Path) -> bool:
    """Whether the content is that of a picture or a clip, whatever the name says."""
    if path.name.startswith(".") or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return kind_of(file.read(HEAD)) in ("picture", "video")
    except OSError:
        return False


def split(count: int, seed: int) -> tuple[list[int], list[int]]:
    """Which of ``count`` samples are trained on, and which are held out: a tenth, 2 to 16.

    Fewer than four samples are all trained on and looked at both.
    """
    if count < 4:
        return list(range(count)), list(range(count))
    held = sorted(_shuffled(count, seed, 0)[: min(_MOST_HELD_OUT, max(2, count // 10))])
    out = set(held)
    return [index for index in range(count) if index not in out], held


def order(samples: list[int], seed: int, position: int) -> int:
    """The sample at a position of the endless sequence that training goes through.

    Each epoch has all samples in an order of its own. Nothing is remembered, so that a run can go
    on anywhere.
    """
    epoch, place = divmod(position, len(samples))
    return samples[_shuffled(len(samples), seed, 1 + epoch)[place]]


def _shuffled(count: int, seed: int, epoch: int) -> list[int]:
    shuffled: list[int] = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return shuffled

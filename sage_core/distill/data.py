"""Training samples: a folder of images and videos, or a file of JSON lines that names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sage_core.errors import InputError
from sage_core.files.reading import parse_json, read_lines
from sage_core.media.open import is_media

_PROMPTS, _FILES = ("prompt", "question"), ("image", "video", "images")
_FIELDS = (*_PROMPTS, *_FILES, "answer", "id")
_MAX_HELD_OUT = 16

Notice = Callable[[str], None]
"""Called with one line about a sample that is left out."""


@dataclass(frozen=True)
class Sample:
    """Media files with a prompt and possibly an answer."""

    name: str
    """Its name in messages: its file, or ``FILE:LINE``."""
    files: tuple[str, ...]
    prompt: str | None = None
    """None: the default prompt for a caption."""
    answer: str | None = None
    """None: the target writes it."""


def read_samples(data: str | Path, notice: Notice) -> list[Sample]:
    """All samples of a folder or a ``.jsonl`` file; ``notice`` is called for each that is left out.

    A line is an object with ``prompt`` (or ``question``), at most one of ``image``, ``video`` and
    ``images`` (paths relative to the file), and optionally ``answer``.

    Raises:
        InputError: the path does not exist or holds no usable sample.
    """
    path = Path(data)
    if path.is_dir():
        samples = [
            Sample(str(file), (str(file),)) for file in sorted(path.rglob("*")) if is_media(file)
        ]
        if not samples:
            raise InputError(f"{path}: no image or video in this folder")
        return samples
    found = list(_read_lines(path, read_lines(path, pipe=True), notice))
    if not found:
        raise InputError(f"{path}: no usable line in this file")
    return found


def _read_lines(path: Path, lines: list[tuple[int, str]], notice: Notice) -> Iterator[Sample]:
    for number, line in lines:
        where = f"{path}:{number}"
        try:
            yield _sample(where, path.parent, parse_json(line, where))
        except InputError as error:
            notice(f"{error}: left out")
        except ValueError as error:
            notice(f"{where}: {error}: left out")


def _sample(where: str, folder: Path, line: Any) -> Sample:
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")
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
        raise ValueError("neither a prompt nor a file")
    if missing := [file for file in files if not Path(file).is_file()]:
        raise ValueError(f"no such file: {missing[0]}")
    answer = _text(line, "answer") if line.get("answer") is not None else None
    return Sample(where, tuple(files), texts[0] if texts else None, answer)


def _text(line: dict[str, Any], name: str) -> str:
    if not isinstance(line[name], str) or not line[name].strip():
        raise ValueError(f"{name} must be non-empty text")
    return str(line[name])


def split(count: int, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the training samples and of the held-out samples, which are a tenth, 2 to 16.

    Fewer than four samples are all in both.
    """
    if count < 4:
        return list(range(count)), list(range(count))
    held = sorted(_shuffled(count, seed, 0)[: min(_MAX_HELD_OUT, max(2, count // 10))])
    out = set(held)
    return [index for index in range(count) if index not in out], held


def sample_at(samples: list[int], seed: int, position: int) -> int:
    """The sample at a position of the endless training sequence.

    Each epoch is a permutation of all samples. It depends on the seed and the position alone, so
    that a run can resume anywhere.
    """
    epoch, place = divmod(position, len(samples))
    return samples[_shuffled(len(samples), seed, 1 + epoch)[place]]


def _shuffled(count: int, seed: int, epoch: int) -> list[int]:
    shuffled: list[int] = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return shuffled

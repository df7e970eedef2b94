"""Items from files: images, videos, folders, MMSpec's format, a JSONL list, the bundled items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from sage_core.bench.items import Files, Item, Problem
from sage_core.errors import InputError, OptionError
from sage_core.files.reading import parse_json, read_lines
from sage_core.media.open import is_media

__all__ = ["BUNDLED", "BUNDLED_ITEMS", "MMSPEC", "bundled_items", "calibration_items", "read_data"]

MMSPEC = "mmspec.jsonl"
BUNDLED = Path(str(resources.files("sage_core"))) / "assets" / "bench"
"""The bundled items: two JSONL lists with the files beside them, by `training.bench_items`."""
BUNDLED_ITEMS = 36
"""Six of each of six categories."""


def bundled_items(count: int) -> list[Item]:
    """The first ``count`` of the bundled items, the categories in turn.

    Raises:
        OptionError: there are fewer.
    """
    if count > BUNDLED_ITEMS:
        raise OptionError(
            f"--items {count}: there are {BUNDLED_ITEMS} bundled items: give fewer, or name your "
            "own files, folders or lists as DATA"
        )
    return _bundled("items.jsonl")[:count]


def calibration_items() -> list[Item]:
    """The bundled items that settings are chosen on. They are never measured."""
    return _bundled("calibration.jsonl")


def _bundled(name: str) -> list[Item]:
    return read_data([str(BUNDLED / name)], None)[0]


def read_data(names: Sequence[str], prompt: str | None) -> tuple[list[Item], list[Problem]]:
    """The items of all ``names`` in order, and what could not be used.

    A name is an image, a video, a ``.jsonl`` list, or a folder. A folder with ``mmspec.jsonl`` in
    it is read as MMSpec; in any other, images and videos are found at any depth. ``prompt`` is
    used for items that bring none.

    Raises:
        InputError: a name that does not exist, or a folder or list with nothing in it.
    """
    items: list[Item] = []
    problems: list[Problem] = []
    ids: set[str] = set()
    for name in names:
        for found in _read(name, prompt):
            if isinstance(found, Problem):
                problems.append(found)
            elif found.id in ids:
                problems.append(Problem(found.id, "an earlier item has this id: it is left out"))
            else:
                ids.add(found.id)
                items.append(found)
    return items, problems


def _read(name: str, prompt: str | None) -> Iterator[Item | Problem]:
    path = Path(name)
    if path.is_dir() and (path / MMSPEC).is_file():
        return _read_lines(path / MMSPEC, prompt)
    if path.is_dir():
        return _read_folder(path, prompt)
    if path.suffix.lower() == ".jsonl":
        return _read_lines(path, prompt)
    if not path.exists():
        raise InputError(f"{name}: no such file: check the path")
    return iter([Item(name, Files((name,)), (prompt,), "files")])


def _read_folder(folder: Path, prompt: str | None) -> Iterator[Item]:
    files = sorted(path for path in folder.rglob("*") if is_media(path))
    if not files:
        raise InputError(f"{folder}: no image and no video in this folder")
    for path in files:
        yield Item(str(path), Files((str(path),)), (prompt,), path.parent.name)


def _read_lines(path: Path, prompt: str | None) -> Iterator[Item | Problem]:
    lines = read_lines(path, pipe=True)
    if not lines:
        raise InputError(f"{path}: the list is empty")
    for number, line in lines:
        yield _read_line(path, number, line, prompt)


def _read_line(path: Path, number: int, line: str, prompt: str | None) -> Item | Problem:
    where = f"{path}:{number}"
    try:
        data = parse_json(line, where)
    except InputError as error:
        return Problem(where, str(error).removeprefix(f"{where}: "))
    if not isinstance(data, dict):
        return Problem(where, "not a JSON object")
    try:
        if "image" in data or "turns" in data:
            return _mmspec(path.parent, number, data)
        return _listed(path.parent, number, data, prompt)
    except ValueError as error:
        return Problem(where, str(error))


def _mmspec(folder: Path, number: int, data: dict[str, Any]) -> Item:
    """``{"id", "image", "turns": [...], "category", "topic"}``, images in ``images/``."""
    images = _texts(data, "image", optional=True)
    return Item(
        id=str(data.get("id", number)),
        source=Files(tuple(str(folder / "images" / image) for image in images)),
        prompts=_texts(data, "turns"),
        category=str(data.get("category", "")),
    )


def _listed(folder: Path, number: int, data: dict[str, Any], prompt: str | None) -> Item:
    """``{"id", "file" or "files", "prompt", "category", "history"}``, files beside the list."""
    if "file" in data and "files" in data:
        raise ValueError("file and files exclude each other: give one of them")
    name = "files" if "files" in data else "file"
    files = _texts(data, name)
    own = data.get("prompt", prompt)
    if own is not None and not isinstance(own, str):
        raise ValueError(f"prompt must be a text, not {own!r}")
    identity = data.get("id", f"{number}")
    if not isinstance(identity, str | int) or isinstance(identity, bool):
        raise ValueError(f"id must be a text or a whole number, not {identity!r}")
    paths = tuple(str(folder / file) for file in files)
    category = str(data.get("category", ""))
    return Item(str(identity), Files(paths), (own,), category, _history(data))


def _history(data: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Earlier turns, each ``[prompt, answer]``."""
    turns = data.get("history", [])
    if not isinstance(turns, list):
        turns = [turns]
    for turn in turns:
        if not isinstance(turn, list) or [type(text) for text in turn] != [str, str]:
            raise ValueError(f"history must be a list of [prompt, answer], not {turn!r} in it")
    return tuple((prompt, answer) for prompt, answer in turns)


def _texts(data: dict[str, Any], name: str, *, optional: bool = False) -> tuple[str, ...]:
    """A field that holds a text or a list of texts."""
    value = data.get(name)
    if value is None and optional:
        return ()
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
        raise ValueError(f"{name} must be a text or a list of texts, not {value!r}")
    return tuple(values)

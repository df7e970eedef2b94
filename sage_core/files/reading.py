"""The one reader of small files: limits of size, depth and numbers, and errors of one line.

Every function takes ``error``, the class of `SageError` to raise: it names the file and the reason.
JSON may be text, bytes or a file; shapes are types that msgspec converts to.
"""

from __future__ import annotations

import json
import re
import stat
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sage_core.errors import InputError, SageError

T = TypeVar("T")
Error = type[SageError]

LIMIT = 64 * 1024**2
"""Bytes of a small file."""
LIST_LIMIT = 1024**3
"""Bytes of a list with an entry per line."""
MAX_DEPTH = 64
"""Levels of lists and objects in JSON or TOML."""
_MAX_INTEGER = 2**63


def read_bytes(
    path: str | Path, *, error: Error = InputError, limit: int = LIMIT, pipe: bool = False
) -> bytes:
    """The content of a regular file, or of a pipe if ``pipe``, of at most ``limit`` bytes.

    Raises:
        SageError: ``error``: it cannot be read, is larger, or is no such file.
    """
    try:
        kind = Path(path).stat().st_mode
        regular = stat.S_ISREG(kind) or (pipe and stat.S_ISFIFO(kind))
        if regular:  # opening a pipe that nobody writes to would block
            with Path(path).open("rb") as file:
                data = file.read(limit + 1)
    except FileNotFoundError as reason:
        raise error(f"{path}: no such file: check the path") from reason
    except (OSError, ValueError) as reason:  # a ValueError is a NUL in the name
        raise error(f"{path}: {getattr(reason, 'strerror', None) or reason}") from reason
    if not regular:
        raise error(f"{path}: is {_kind(kind)}: give a regular file")
    if len(data) > limit:
        raise error(f"{path}: is larger than {limit / 1024**2:.3g} MiB: give a smaller file")
    return data


def read_text(
    path: str | Path, *, error: Error = InputError, limit: int = LIMIT, pipe: bool = False
) -> str:
    """A file of UTF-8 text, without its byte-order mark. Raises as `read_bytes`."""
    return decode(read_bytes(path, error=error, limit=limit, pipe=pipe), path, error=error)


def decode(data: bytes, name: str | Path, *, error: Error = InputError) -> str:
    """UTF-8 text without its byte-order mark.

    Raises:
        SageError: ``error``: not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        place = f"byte {data[reason.start]:#04x} at {reason.start}"
        raise error(f"{name}: not UTF-8 text ({place}): save it as UTF-8") from reason


def split_lines(text: str, *, keepends: bool = False) -> list[str]:
    """Lines, whose ends are ``\\n`` or ``\\r\\n`` alone; the ends are dropped unless ``keepends``.

    Unlike in `str.splitlines`, U+2028, U+0085, form feeds and the like stay within a line.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    return lines if keepends else [re.sub(r"\r?\n$", "", line) for line in lines]


def read_lines(
    path: str | Path, *, error: Error = InputError, pipe: bool = False
) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1. Raises as `read_text`."""
    lines = split_lines(read_text(path, error=error, limit=LIST_LIMIT, pipe=pipe))
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def read_json(
    path: str | Path,
    shape: type[T] | Any = Any,
    *,
    error: Error = InputError,
    limit: int = LIMIT,
    any_number: bool = False,
) -> T | Any:
    """The content of a JSON file. Raises as `read_text` and `parse_json`."""
    text = read_text(path, error=error, limit=limit)
    return parse_json(text, path, shape, error=error, any_number=any_number)


def parse_json(
    text: str,
    name: str | Path,
    shape: type[T] | Any = Any,
    *,
    error: Error = InputError,
    any_number: bool = False,
) -> T | Any:
    """The value of a JSON text, converted to ``shape``; ``name`` is what messages call it.

    ``any_number`` allows Infinity, NaN and integers of more than 64 bits, which files of
    transformers contain.

    Raises:
        SageError: ``error``: not JSON, nested deeper than `MAX_DEPTH`, with a number that is not
            finite or does not fit in 64 bits, or of another shape; the field is named.
    """
    value = _parsed(json.loads, "JSON", text, name, error, any_number)
    return as_shape(value, name, shape, error=error)


def read_toml(path: str | Path, *, error: Error = InputError) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        SageError: as `parse_json`, and for text that is not TOML.
    """
    text = read_text(path, error=error)
    value: dict[str, Any] = _parsed(tomllib.loads, "TOML", text, path, error, any_number=False)
    return value


def _parsed(
    parse: Callable[[str], Any],
    language: str,
    text: str,
    name: str | Path,
    error: Error,
    any_number: bool,
) -> Any:
    """The value of a text, within the limits of depth and numbers."""
    try:
        value = parse(text)
    except RecursionError as reason:
        raise error(f"{name}: is nested deeper than {MAX_DEPTH} levels") from reason
    except ValueError as reason:
        raise error(f"{name}: not valid {language}: {reason}") from reason
    _check(value, name, error, any_number)
    return value


def as_shape(
    value: Any, name: str | Path, shape: type[T] | Any, *, error: Error = InputError
) -> T | Any:
    """``value`` of JSON or TOML as ``shape``, with the keys of objects converted as well.

    Raises:
        SageError: ``error``: names the field that does not fit, or that a dataclass does not have.
    """
    if shape is Any:
        return value
    known = {field.name for field in fields(shape)} if is_dataclass(shape) else None
    if known is not None and isinstance(value, dict) and (unknown := value.keys() - known):
        raise error(f"{name}: unknown field {min(unknown)}: update sage")
    try:
        return msgspec.convert(value, shape, str_keys=True)
    except (msgspec.ValidationError, ValueError, TypeError) as reason:
        raise error(f"{name}: {_plain(str(reason))}") from reason


def _plain(message: str) -> str:
    """A message of msgspec with the field first: ``... - at `$.ids[0]` `` -> ``ids[0]: ...``."""
    found = re.fullmatch(r"(.*?)(?: - at (?:`(key)` in )?`\$\.?(.*)`)?", message, re.DOTALL)
    assert found is not None
    what, key, field = found.groups()
    place = " of ".join(part for part in (key, field) if part)
    return f"{place}: {what[:1].lower()}{what[1:]}" if place else what


def _check(value: Any, name: str | Path, error: Error, any_number: bool) -> None:
    """Refuse what is nested too deeply, and unless ``any_number`` what is no 64-bit number."""
    for level in _levels(value):
        if any_number:
            continue
        for one in level:
            if isinstance(one, float) and not isfinite(one):
                raise error(f"{name}: holds {one}, which is no finite number")
            if isinstance(one, int) and not -_MAX_INTEGER <= one < _MAX_INTEGER:
                raise error(f"{name}: holds an integer of more than 64 bits")
    if level:
        raise error(f"{name}: is nested deeper than {MAX_DEPTH} levels")


def _levels(value: Any) -> Iterator[list[Any]]:
    """The values of each level, at most `MAX_DEPTH` of them; the last is empty if that is all."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        yield level
        if not level:
            return
        inner = (one.values() if isinstance(one, dict) else one for one in level if _nests(one))
        level = [child for part in inner for child in part]


def _nests(value: Any) -> bool:
    return isinstance(value, dict | list)


def _kind(mode: int) -> str:
    """What is no regular file."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")

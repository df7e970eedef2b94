"""The file of ``--resume``: results are appended, what an earlier run finished is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from sage_cli.console import display_name
from sage_cli.render.outputs import append, folder_locked, lock_or_refuse, output_errors
from sage_core.errors import OptionError
from sage_core.files.atomic_write import replacing, shortened

__all__ = ["AppendedFile", "finished_keys"]


class AppendedFile:
    """A JSONL file that grows by whole lines, whatever ends the run.

    A last line without its end is dropped. So are failures, which are tried again. What a run
    without ``--resume`` left in ``FILE.partial`` is taken over if there is no FILE.

    Raises:
        OptionError: another run is writing FILE, or it holds something else than results.
        OutputError: it cannot be opened.
    """

    direct = False

    def __init__(self, path: Path) -> None:
        self._path = self.partial = path.resolve()
        self._name = display_name(str(path))
        self.keys: set[str] = set()
        """Of the results that are there."""
        with output_errors(self._name), folder_locked(self._path.parent):
            left = self._path.with_name(shortened(self._path.name) + ".partial")
            if not self._path.exists() and left.is_file():
                left.rename(self._path)
            self._number = self._opened()
            if self._mended():
                os.close(self._number)
                self._number = self._opened()
        self._done = False

    def _opened(self) -> int:
        number = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        lock_or_refuse(number, self._name)
        return number

    def _mended(self) -> bool:
        """Read the keys, and cut a torn last line; whether failures were removed."""
        failures = False
        end = 0
        for line, record in _records(self._path, self._name):
            end += len(line)
            failures = failures or "error" in record
            self.keys |= _finished(record)
        if end < os.fstat(self._number).st_size:
            os.ftruncate(self._number, end)
        if failures:
            with replacing(self._path) as scratch, scratch.open("wb") as file:
                for line, record in _records(self._path, self._name):
                    if "error" not in record:
                        file.write(line)
        return failures

    def records(self) -> Iterator[dict[str, Any]]:
        """The results that are there."""
        return (record for _, record in _records(self._path, self._name) if record)

    def write(self, text: str) -> None:
        """Append whole lines, or nothing where the disk is full.

        Raises:
            OutputError: they cannot be written.
        """
        with output_errors(self._name):
            append(self._number, text)

    def commit(self) -> None:
        """Close FILE."""
        if not self._done:
            self._done = True
            os.close(self._number)

    def abandon(self) -> None:
        """Close FILE, which holds what is finished."""
        self.commit()


def finished_keys(path: Path) -> set[str]:
    """Keys of the results in a file that may not exist; it is not changed.

    Raises:
        OptionError: it holds something else than results.
    """
    if not path.is_file():
        return set()
    found = _records(path, display_name(str(path)))
    return {key for _, record in found for key in _finished(record)}


def _finished(record: dict[str, Any]) -> set[str]:
    """The key of a result; nothing for a failure, or a result without one."""
    key = record.get("key")
    return {key} if isinstance(key, str) and "error" not in record else set()


def _records(path: Path, name: str) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The complete lines of a file with their objects; an empty one for a blank line.

    Raises:
        OptionError: a line is no object of JSON.
    """
    place = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line, _parsed(line, place, name)
            place += len(line)


def _parsed(line: bytes, place: int, name: str) -> dict[str, Any]:
    if not line.strip():
        return {}
    with suppress(msgspec.DecodeError, ValueError, RecursionError):
        record = msgspec.json.decode(line)
        if isinstance(record, dict):
            return record
    raise OptionError(f"--resume {name}: at byte {place} is no result of sage: name another file")

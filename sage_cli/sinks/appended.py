"""The file of ``--resume``: results are appended, what an earlier run finished is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from sage_cli.console import display_name
from sage_cli.render.outputs import folder_locked, lock_or_refuse, output_errors
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
        for place, line in _lines(self._path):
            end = place + len(line)
            record = _parsed(line, place, self._name)
            if "error" in record:
                failures = True
            elif isinstance(record.get("key"), str):
                self.keys.add(record["key"])
        if end < os.fstat(self._number).st_size:
            os.ftruncate(self._number, end)
        if failures:
            with replacing(self._path) as scratch, scratch.open("wb") as file:
                for place, line in _lines(self._path):
                    if "error" not in _parsed(line, place, self._name):
                        file.write(line)
        return failures

    def records(self) -> Iterator[dict[str, Any]]:
        """The results that are there."""
        for place, line in _lines(self._path):
            if line.strip():
                yield _parsed(line, place, self._name)

    def write(self, text: str) -> None:
        """Append whole lines, or nothing where the disk is full.

        Raises:
            OutputError: they cannot be written.
        """
        data = memoryview(text.encode("utf-8", "surrogateescape"))
        with output_errors(self._name):
            before = os.fstat(self._number).st_size
            try:
                while data:
                    data = data[os.write(self._number, data) :]
            except OSError:
                os.ftruncate(self._number, before)
                raise

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
    name = display_name(str(path))
    records = [_parsed(line, place, name) for place, line in _lines(path)]
    return {str(record["key"]) for record in records if "key" in record and "error" not in record}


def _parsed(line: bytes, place: int, name: str) -> dict[str, Any]:
    if not line.strip():
        return {}
    with suppress(msgspec.DecodeError, ValueError, RecursionError):
        record = msgspec.json.decode(line)
        if isinstance(record, dict):
            return record
    raise OptionError(f"--resume {name}: at byte {place} is no result of sage: name another file")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The complete lines of a file, with their places in bytes."""
    place = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield place, line
            place += len(line)

"""Tables of a run's results, written at its end: CSV, Parquet, ``metadata.jsonl``."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import Any

from sage_cli.console import display_name
from sage_cli.sinks.sink import Record, Sink
from sage_cli.streams import OutputError
from sage_core.errors import OptionError
from sage_core.files.atomic_write import replacing

__all__ = ["Exports", "check_export"]

_NAMES = "file caption text prompt finish_reason new_tokens model seed key"
COLUMNS = tuple(_NAMES.split())
_BATCH = 4096
"""Rows that are written to Parquet at once."""


class Exports(Sink):
    """Writes tables of all results to files by their names: see `check_export`.

    Until the end the rows are kept in a temporary file. ``earlier`` are results of earlier runs.
    """

    def __init__(self, paths: Iterable[Path], earlier: Iterable[Record] = ()) -> None:
        self._paths = tuple(paths)
        self._file = TextIOWrapper(TemporaryFile(), encoding="utf-8")  # noqa: SIM115
        for record in earlier:
            self.result("", record)

    def result(self, label: str, record: Record) -> None:
        self._file.write(json.dumps(_row(record)) + "\n")

    def commit(self) -> None:
        for path in self._paths:
            self._file.seek(0)
            try:
                with replacing(path) as scratch:
                    _format(path)((json.loads(line) for line in self._file), scratch, path)
            except OSError as error:
                raise OutputError(error, display_name(str(path))) from error
        self._file.close()


def check_export(path: Path) -> None:
    """Refuse a name that tells no format, or one whose package is missing.

    Raises:
        OptionError: see above.
    """
    if _format(path) is _write_parquet:
        _pyarrow()


def _format(path: Path) -> Callable[[Iterator[dict[str, Any]], Path, Path], None]:
    if path.name == "metadata.jsonl":
        return _write_metadata
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise OptionError(
            f"--export {display_name(str(path))}: the name must end in .csv or .parquet, or be "
            "metadata.jsonl"
        ) from None


def _row(record: Record) -> dict[str, Any]:
    stats = record.get("stats") or {}
    return {
        "file": record["files"][0],
        "caption": record.get("caption", 0),
        "text": record["text"],
        "prompt": record.get("prompt"),
        "finish_reason": record.get("finish_reason"),
        "new_tokens": stats.get("new_tokens"),
        "model": (record.get("models") or {}).get("target"),
        "seed": record.get("seed"),
        "key": record.get("key"),
    }


def _write_csv(rows: Iterator[dict[str, Any]], scratch: Path, path: Path) -> None:
    with scratch.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _write_metadata(rows: Iterator[dict[str, Any]], scratch: Path, path: Path) -> None:
    """Lines as the ImageFolder of `datasets` reads them; names are relative to the folder."""
    folder = path.resolve().parent
    with scratch.open("w", encoding="utf-8") as file:
        for row in rows:
            name = os.path.relpath(os.path.abspath(row["file"]), folder)  # noqa: PTH100
            file.write(json.dumps({"file_name": name, "text": row["text"]}) + "\n")


def _write_parquet(rows: Iterator[dict[str, Any]], scratch: Path, path: Path) -> None:
    pyarrow, parquet = _pyarrow()
    kinds = {"caption": pyarrow.int32(), "new_tokens": pyarrow.int32(), "seed": pyarrow.string()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in COLUMNS])
    with parquet.ParquetWriter(scratch, schema) as writer:
        part: list[dict[str, Any]] = []
        for row in rows:
            part.append({name: _plain(value) for name, value in row.items()})
            part[-1]["seed"] = None if row["seed"] is None else str(row["seed"])
            if len(part) == _BATCH:
                writer.write_table(pyarrow.Table.from_pylist(part, schema))
                part = []
        writer.write_table(pyarrow.Table.from_pylist(part, schema))


def _plain(value: Any) -> Any:
    """Text that is UTF-8: names may hold other bytes."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise OptionError(
            "Parquet needs the package pyarrow: pip install 'sage-vlm[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet


_FORMATS: Mapping[str, Callable[[Iterator[dict[str, Any]], Path, Path], None]] = MappingProxyType(
    {".csv": _write_csv, ".parquet": _write_parquet}
)

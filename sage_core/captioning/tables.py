"""Images in a column of a Parquet or Arrow file, as `datasets` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from sage_core.errors import InputError, OptionError

__all__ = ["SUFFIXES", "ImageTable"]

SUFFIXES = (".parquet", ".arrow")


class _Named(BytesIO):
    """Bytes with a name for messages."""

    name: str


class ImageTable:
    """A column of encoded images: bytes, or structs with ``bytes`` (and ``path``).

    Args:
        path: a Parquet file, or an Arrow file or stream.
        column: its name; None: the first column of these types.

    Raises:
        InputError: it cannot be read, or has no such column.
        OptionError: the package pyarrow is missing.
    """

    def __init__(self, path: str, column: str | None = None) -> None:
        self.path = path
        self._parts, self._starts = _parts(path)
        self.column = column or self._first_column()
        self._read: tuple[int, Any] = (-1, None)
        self._values(0)

    def __len__(self) -> int:
        return self._starts[-1]

    def open(self, row: int) -> BytesIO:
        """The image of a row, from 0, as a file.

        Raises:
            InputError: there is none in that row.
        """
        name = f"{self.path}#{row}"
        part = next(i for i, start in enumerate(self._starts[1:]) if row < start)
        value = self._values(part)[row - self._starts[part]].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise InputError(f"{name}: no bytes of an image in column {self.column!r}")
        file = _Named(data)
        file.name = name
        return file

    def _values(self, part: int) -> Any:
        """The column in one part; the last one that was read is kept."""
        if self._read[0] != part and len(self):
            try:
                self._read = part, self._parts(part, [self.column]).column(self.column)
            except (KeyError, ValueError, OSError) as error:
                raise InputError(f"{self.path}: column {self.column!r}: {error}") from error
        return self._read[1]

    def _first_column(self) -> str:
        import pyarrow.types as types

        schema = self._parts(0, None).schema
        for field in schema:
            kind = field.type
            inner = [one.name for one in kind] if types.is_struct(kind) else []
            if "bytes" in inner or types.is_binary(kind) or types.is_large_binary(kind):
                return str(field.name)
        raise InputError(
            f"{self.path}: no column of images (of bytes): the columns are "
            f"{', '.join(schema.names)}"
        )


def _parts(path: str) -> tuple[Any, Sequence[int]]:
    """A function from the number of a part and column names to its table, and the parts' first
    rows, with the number of all rows at the end.
    """
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError as error:
        raise OptionError(
            f"{path}: a table needs the package pyarrow: pip install 'sage-vlm[parquet]'"
        ) from error
    try:
        if Path(path).suffix == ".parquet":
            file = parquet.ParquetFile(path)
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            return lambda part, names: file.read_row_group(part, columns=names), _starts(sizes)
        source = pyarrow.memory_map(path)
        try:
            table = ipc.open_stream(source).read_all()
        except pyarrow.ArrowInvalid:
            table = ipc.open_file(source).read_all()
        return lambda part, names: table.select(names) if names else table, _starts([len(table)])
    except (OSError, ValueError) as error:  # pyarrow's own are ValueErrors
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error


def _starts(sizes: Sequence[int]) -> list[int]:
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return starts

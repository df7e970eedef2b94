"""The input files: arguments, lists of names, standard input."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sage_cli.console import counted, display_name, is_terminal
from sage_core.captioning.find import Finder
from sage_core.captioning.tables import SUFFIXES as TABLES
from sage_core.captioning.tables import ImageTable
from sage_core.errors import InputError, OptionError
from sage_core.files.reading import LIST_LIMIT, read_bytes, split_lines

if TYPE_CHECKING:
    from sage_core.media import MediaWorker

__all__ = ["STDIN", "Source", "collect"]

STDIN = "-"


@dataclass(frozen=True)
class Source:
    """One input as it was named; ``-`` is standard input."""

    name: str
    below: str | None = None
    """Its path below the folder that it was found in; None if it was named itself."""
    refusal: str | None = None
    """Why it cannot be used, if that is known; without the name."""
    table: ImageTable | None = None
    """Where it is the row ``row``."""
    row: int = 0

    @property
    def relative(self) -> str:
        """Its path below the folder that it was found in, else its name without folders."""
        return self.below if self.below is not None else Path(self.name).name

    @property
    def label(self) -> str:
        """The name to display: one printable line."""
        return "standard input" if self.name == STDIN else display_name(self.name)

    @property
    def later(self) -> str | Source:
        """What `MediaOpener` opens when its turn comes: an error then concerns this one alone."""
        return self if self.table is not None or self.refusal is not None else self.name

    def open(self) -> str | BinaryIO:
        """A path, or standard input as a file with a name for messages.

        Raises:
            InputError: standard input is empty or larger than 2 GiB; or `refusal`.
        """
        self._refuse()
        if self.table is not None:
            return self.table.open(self.row)
        return self.name if self.name != STDIN else self._read_stdin()

    def check(self, worker: MediaWorker | None = None) -> None:
        """Refuse what is no image or video; standard input is read for that, and kept.

        Formats that only the libraries know are looked at in the ``worker``.

        Raises:
            InputError: see `sage_core.media.check_media` and `open`.
        """
        from sage_core.media import check_media

        self._refuse()
        if self.table is not None:
            return
        if self.name == STDIN:
            check_media(self._read_stdin(), self.label, worker or False)
        else:
            check_media(Path(self.name), self.label, worker or False)

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise InputError(f"{self.label}: {self.refusal}")

    def _read_stdin(self) -> BinaryIO:
        if isinstance(self._stdin, InputError):
            raise self._stdin
        return self._stdin

    @cached_property
    def _stdin(self) -> BinaryIO | InputError:
        """All of standard input, which can be read only once, or why it cannot be used."""
        from sage_core.media.streams import keep

        try:
            file = keep(sys.stdin.buffer.read, self.label)
        except InputError as error:
            return error
        return file if os.fstat(file.fileno()).st_size else InputError("standard input is empty")


def collect(
    arguments: Sequence[str],
    files_from: str | None,
    *,
    least: int = 1,
    finder: Finder | None = None,
    column: str | None = None,
) -> tuple[Source, ...]:
    """Inputs in the order given: the arguments, then those of ``--files-from``.

    With a ``finder``, the files in folders stand in their places; a folder that cannot be read or
    has no files of the kinds asked for is a source that cannot be used. So do the rows of a table
    of images, which are in ``column``.

    Raises:
        OptionError: fewer than ``least`` given, or standard input named twice or a terminal.
        InputError: the list of names cannot be read or is empty.
    """
    names = list(arguments)
    _check_stdin(names, files_from)
    if files_from is not None:
        names += _names(files_from)
        _check_stdin(names, files_from)
    if len(names) < least:
        raise OptionError("no files: name at least one, or use --files-from")
    if STDIN in names and is_terminal(sys.stdin):
        raise OptionError("'-' reads an image or video from standard input, but that is a terminal")
    if finder is None:
        return tuple(Source(name) for name in names)
    return tuple(source for name in names for source in _found(name, finder, column))


def _found(name: str, finder: Finder, column: str | None) -> list[Source]:
    if Path(name).suffix in TABLES and Path(name).is_file():
        return _rows(name, column)
    if name == STDIN or not os.path.isdir(name):  # noqa: PTH112, a name may be no path at all
        return [Source(name)]
    before = finder.skipped.copy()
    try:
        found = [Source(one.path, one.relative) for one in finder.find(name)]
    except InputError as error:
        return [Source(name, refusal=str(error).removeprefix(f"{name}: "))]
    if found:
        return found
    none = "no images or videos in this folder"
    if skipped := finder.skipped - before:
        none += f"; left out: {counted(skipped)}"
    return [Source(name, refusal=none)]


def _rows(name: str, column: str | None) -> list[Source]:
    try:
        table = ImageTable(name, column)
    except InputError as error:
        return [Source(name, refusal=str(error).removeprefix(f"{name}: "))]
    stem = Path(name).stem
    return [
        Source(f"{name}#{row}", below=f"{stem}/{row}", table=table, row=row)
        for row in range(len(table))
    ]


def _check_stdin(names: Sequence[str], files_from: str | None) -> None:
    if names.count(STDIN) + (files_from == STDIN) > 1:
        raise OptionError("standard input can be read only once")


def _names(files_from: str) -> list[str]:
    """Names from a list: separated by NUL bytes if there is one, by line ends otherwise."""
    if files_from == STDIN:
        if is_terminal(sys.stdin):
            raise OptionError("--files-from - reads names from standard input: that is a terminal")
        data = sys.stdin.buffer.read(LIST_LIMIT)
    else:
        data = read_bytes(files_from, limit=LIST_LIMIT, pipe=True)
    # The bytes of a name need be no UTF-8.
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    parts = text.split("\0") if "\0" in text else split_lines(text)
    names = [part for part in parts if part.strip()]
    if not names:
        raise InputError(f"--files-from {display_name(files_from)}: the list is empty")
    return names

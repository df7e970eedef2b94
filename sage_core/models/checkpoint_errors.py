"""A checkpoint is input: what fails on its files is a `ModelError` that names file and field."""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any

from sage_core.errors import ModelError, SageError
from sage_core.files.reading import read_json
from sage_core.models.quiet import is_memory_error

_LONGEST = 160


@contextmanager
def checkpoint_errors(folder: Path, *files: str) -> Iterator[None]:
    """Turn any error within the context into a `ModelError` about the first of ``files``, or about
    the one whose field the failing code was reading.

    For loading only: an error while decoding may be a defect of sage. Errors of sage, lack of
    memory and interrupts pass.
    """
    try:
        yield
    except (SageError, MemoryError):
        raise
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        if isinstance(error, RuntimeError) and is_memory_error(error):
            raise
        file, field = _place(error, folder, files)
        where = f"{folder / file}: {field}" if field else str(folder / file)
        raise ModelError(
            f"{where}: cannot be used ({reason(error)}): get a complete copy of the model"
        ) from error


@contextmanager
def forward_errors(alone: Callable[[], Any]) -> Iterator[None]:
    """Turn an error of a model's forward within the context into a `ModelError` if ``alone``, which
    calls the model as transformers does, fails as well. Else it is a defect of sage, and passes;
    so does an error outside of a model's code.
    """
    try:
        yield
    except (SageError, MemoryError):
        raise
    except Exception as error:
        if not _from_a_model(error) or (isinstance(error, RuntimeError) and is_memory_error(error)):
            raise
        try:
            alone()
        except Exception as same:
            raise ModelError(
                f"the model cannot read this prompt ({reason(same)}): its files do not fit one "
                "another: get a complete copy of the model"
            ) from error
        raise


def _from_a_model(error: Exception) -> bool:
    """Whether it was raised in a module's forward, or elsewhere in code of a model."""
    codes = [frame.f_code for frame, _ in walk_tb(error.__traceback__)]
    return any(
        code.co_name == "_call_impl" or Path(code.co_filename).name.startswith("modeling_")
        for code in codes
    )


def is_panic(error: BaseException) -> bool:
    """Whether it is a panic of a library in Rust, which derives from BaseException alone."""
    return type(error).__name__ == "PanicException"


def reason(error: BaseException) -> str:
    """An exception of a library in one short line: its type and message."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    shown = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return f"{kind}: {shown}" if shown else kind


def _place(error: BaseException, folder: Path, files: tuple[str, ...]) -> tuple[str, str]:
    """The file and the field that an error is about; the first file and no field if unknown.

    A field is one that the message quotes, or that stands in the line of code that failed; the
    innermost such line counts.
    """
    fields = {file: _fields(folder / file) for file in files}
    lines = [
        linecache.getline(frame.f_code.co_filename, number)
        for frame, number in walk_tb(error.__traceback__)
    ]
    quoted = re.findall(r"['`\"](\w+)['`\"]", str(error))
    for names in (quoted, *(re.findall(r"\w+", line) for line in reversed(lines))):
        for name in names:
            for file, known in fields.items():
                if name in known:
                    return file, name
    return files[0], ""


def _fields(path: Path) -> set[str]:
    """The names of all fields in a JSON file, at any level; none if it cannot be read."""
    try:
        left = [read_json(path, error=ModelError, any_number=True)]
    except ModelError:
        return set()
    found: set[str] = set()
    while left:
        value: Any = left.pop()
        if isinstance(value, dict):
            found |= {str(name) for name in value}
            left += value.values()
        elif isinstance(value, list):
            left += value
    return found

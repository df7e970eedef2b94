"""Prompts with placeholders that each file fills in: its name, its folder, what is known of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sage_core.captioning.descriptions import description
from sage_core.errors import InputError, OptionError
from sage_core.files.reading import read_text

__all__ = ["PLACEHOLDERS", "PromptTemplate"]

PLACEHOLDERS = ("name", "stem", "dir", "parent", "index", "sidecar", "description")
_FIELD = re.compile(r"\{\{(\w+)\}\}|\{([A-Za-z_]\w*)\}")
_SIDECARS = (".txt", ".caption")
_LIMIT = 64 * 1024
"""Bytes of a sidecar, which becomes part of a prompt."""


class PromptTemplate:
    """A prompt with placeholders in braces.

    ``{name}`` is the file's name, ``{stem}`` the same without its suffix, ``{dir}`` its folder as
    it was named, ``{parent}`` the name of that folder, ``{index}`` the file's number from 1,
    ``{sidecar}`` the text of ``NAME.txt`` or ``NAME.caption`` beside it, and ``{description}`` the
    description in its metadata (`descriptions`); the last two are empty if there is none.
    ``{{name}}`` is the text ``{name}``. Other braces, as in JSON, stay as they are.

    Raises:
        OptionError: an unknown placeholder.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._used = {found[2] for found in _FIELD.finditer(text) if found[2]}
        if unknown := sorted(self._used - set(PLACEHOLDERS)):
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise OptionError(
                f"unknown placeholder {{{unknown[0]}}} in the prompt: use {known}, or write "
                f"{{{{{unknown[0]}}}}} for these letters"
            )

    @property
    def per_file(self) -> bool:
        """Whether files get different prompts."""
        return bool(self._used)

    def fill(self, file: str, index: int) -> str:
        """The prompt for one file.

        Raises:
            InputError: its sidecar or XMP file cannot be read.
        """
        values = {name: _value(name, file, index) for name in self._used}
        return _FIELD.sub(lambda found: values[found[2]] if found[2] else f"{{{found[1]}}}",
                          self.text)  # fmt: skip


def _value(name: str, file: str, index: int) -> str:
    path = Path(file)
    match name:
        case "index":
            return str(index)
        case "sidecar":
            return _sidecar(path)
        case "description":
            return description(path)
        case "parent":
            found = path.absolute().parent.name
        case "dir":
            found = str(path.parent)
        case _:
            found = getattr(path, name)
    # Names need be no UTF-8, prompts must be.
    return os.fsencode(found).decode("utf-8", "replace")


def _sidecar(path: Path) -> str:
    for suffix in _SIDECARS:
        for sidecar in (path.with_suffix(suffix), path.with_name(path.name + suffix)):
            if sidecar != path and sidecar.is_file():
                return read_text(sidecar, error=InputError, limit=_LIMIT).strip()
    return ""

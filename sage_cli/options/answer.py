"""The options of the commands that make single texts: ``sage caption`` and ``sage ask``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from sage_cli.options.shared import RunOptions
from sage_cli.options.text import TextOptions
from sage_core.errors import OptionError
from sage_core.files.reading import read_text
from sage_core.generation.text_rules import TextRules

__all__ = ["AnswerOptions"]


# The fields of the last base come first.
@dataclass(frozen=True)
class AnswerOptions(RunOptions, TextOptions):
    """Options of ``sage ask`` and ``sage caption``, as the command line gives them."""

    @property
    def edits_text(self) -> bool:
        return self._rules.changes_text

    @property
    def reads(self) -> list[str]:
        named = (self.prompt_file, self.schema)
        return [*super().reads, *(str(path) for path in named if path is not None)]

    def decoding(self) -> dict[str, Any]:
        given = super().decoding()
        for field in fields(TextRules):  # the keys of results are made of what is given
            given.pop(field.name, None)
        given |= self._rules.used
        if self._json_schema is not None:
            given["json_schema"] = self._json_schema
        return given

    @property
    def _rules(self) -> TextRules:
        return TextRules(**{field.name: getattr(self, field.name) for field in fields(TextRules)})

    @cached_property
    def _json_schema(self) -> str | None:
        return None if self.schema is None else read_text(self.schema, error=OptionError)

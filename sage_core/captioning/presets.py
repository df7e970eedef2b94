"""Prompts by name, with the options that go with them: those of sage, and a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage_core.errors import OptionError
from sage_core.files.reading import read_toml

__all__ = ["Preset", "builtin_presets", "parse_presets"]


@dataclass(frozen=True)
class Preset:
    """A prompt (None: the default one) and options of the command line, by name without dashes."""

    name: str
    prompt: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = "sage"
    """Where it comes from: ``sage``, or a settings file."""


def builtin_presets() -> dict[str, Preset]:
    """The presets of sage, by name."""
    return parse_presets(read_toml(Path(__file__).with_name("presets.toml")), "sage")


def parse_presets(table: Any, source: str) -> dict[str, Preset]:
    """The presets of a table of TOML: ``name = "prompt"``, or a table with prompt and options.

    Raises:
        OptionError: names the one that is neither, or has an empty prompt.
    """
    if not isinstance(table, Mapping):
        raise OptionError(f"{source}: presets must be a table")
    return {name: _parsed(name, value, source) for name, value in table.items()}


def _parsed(name: str, value: Any, source: str) -> Preset:
    options = dict(value) if isinstance(value, Mapping) else {"prompt": value}
    prompt = options.pop("prompt", None)
    if not (isinstance(prompt, str) and prompt.strip()) and (prompt is not None or not options):
        raise OptionError(
            f"{source}: preset {name!r} must be a prompt, or a table with prompt and options"
        )
    return Preset(name, prompt, options, source)

"""The prompt of ``--prompt``, ``--prompt-file`` or ``--preset``, and the options of the preset."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import typer

from sage_cli.options.answer import AnswerOptions
from sage_cli.options.settings import own_presets, settable, values_of
from sage_core.captioning.presets import Preset, builtin_presets
from sage_core.captioning.prompts import PromptTemplate
from sage_core.errors import OptionError
from sage_core.files.reading import read_text

__all__ = ["find_preset", "with_prompt"]

Options = TypeVar("Options", bound=AnswerOptions)

_LIMIT = 1024**2
"""Bytes of a prompt file."""


def with_prompt(
    context: typer.Context, options: Options, prompt: str | None
) -> tuple[Options, PromptTemplate | None]:
    """The options with those of their preset, and the prompt; None: the default one.

    What the command line and the environment give comes before the preset, and the preset before
    the settings file.

    Raises:
        OptionError: an unknown preset or placeholder, a prompt that is given twice or is empty, or
            options of a preset that cannot be used.
    """
    chosen = prompt if prompt is not None and _is_given(context, "prompt") else None
    if options.prompt_file is not None:
        if chosen is not None:
            raise OptionError("--prompt-file and --prompt exclude each other")
        chosen = read_text(options.prompt_file, error=OptionError, limit=_LIMIT).strip()
        if not chosen:
            raise OptionError(f"--prompt-file {options.prompt_file}: the file is empty")
    preset = None if options.preset is None else find_preset(options.preset, options)
    if preset is not None:
        options = _with_options(context, options, preset)
    if chosen is None:
        chosen = preset.prompt if preset is not None and preset.prompt else prompt
    return options, None if chosen is None else PromptTemplate(chosen)


def find_preset(name: str, options: AnswerOptions) -> Preset:
    """The user's own preset of that name, else that of sage.

    Raises:
        OptionError: there is none; the message lists them.
    """
    known = builtin_presets() | own_presets(options.config)
    if name not in known:
        raise OptionError(f"unknown preset {name!r}: choose from {', '.join(known)}")
    return known[name]


def _with_options(context: typer.Context, options: Options, preset: Preset) -> Options:
    """``options`` with those of the preset that are not given."""
    known = settable(context.command.params)
    names = {field.name for field in fields(options)}
    usable = {key: p for key, p in known.items() if p.name in names and p.name != "preset"}
    values = values_of(preset.source, f"[presets.{preset.name}] ", dict(preset.options), usable)
    left: dict[str, Any] = {}
    for param in usable.values():
        if param.name in values and not _is_given(context, param.name):
            left[param.name] = _converted(context, param, values[param.name], preset)
    return replace(options, **left)


def _converted(context: typer.Context, param: Any, value: Any, preset: Preset) -> Any:
    try:
        return param.process_value(context, value)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of Click's own
            raise
        raise OptionError(f"{preset.source}: preset {preset.name!r}: {error}") from error


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether the command line or the environment sets a parameter."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")

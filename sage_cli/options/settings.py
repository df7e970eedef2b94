"""Defaults from a TOML file and from the environment; flags override both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from sage_core.captioning.presets import Preset, parse_presets
from sage_core.errors import OptionError
from sage_core.files.reading import read_toml

__all__ = [
    "apply_settings",
    "default_path",
    "env_name",
    "load_settings",
    "own_presets",
    "settable",
    "values_of",
]

FILE_NAME = "sage.toml"
PRESETS = "presets"
"""The table of the user's own presets."""


def env_name(option: str) -> str:
    """``--max-new-tokens`` -> ``SAGE_MAX_NEW_TOKENS``."""
    return "SAGE_" + option.lstrip("-").replace("-", "_").upper()


def default_path() -> Path:
    """The settings file that is read if none is named."""
    return Path(typer.get_app_dir("sage")) / FILE_NAME


def settable(params: list[Any]) -> dict[str, Any]:
    """The parameters of a command that the file may set, by their key in the file."""
    return {
        max(param.opts, key=len).lstrip("-"): param
        for param in params
        if param.param_type_name == "option" and param.envvar and param.name != "config"
    }


def load_settings(path: Path, command: str, commands: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Values for ``command``'s parameters, by parameter name.

    Top-level keys apply to every command that has the option; a table named after a command
    applies to that command alone and has precedence.

    Args:
        path: the TOML file.
        command: name of the command that runs.
        commands: the `settable` parameters of every command.

    Raises:
        OptionError: the file cannot be read, or has a key that is no option.
    """
    data = read_toml(path, error=OptionError)
    parse_presets(data.pop(PRESETS, {}), str(path))
    tables = {key: data.pop(key) for key in list(data) if isinstance(data[key], dict)}
    everywhere = {key: param for table in commands.values() for key, param in table.items()}
    values = values_of(path, "", data, everywhere)
    for name, table in tables.items():
        if name not in commands:
            raise OptionError(
                f"{path}: no settings are read from [{name}]: use {', '.join(commands)}"
            )
        found = values_of(path, f"[{name}] ", table, commands[name])
        if name == command:
            values |= found
    return values


def values_of(
    path: str | Path, where: str, table: dict[str, Any], known: dict[str, Any]
) -> dict[str, Any]:
    """The values of one table; a TOML type that does not fit the option is refused."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        param = known.get(key)
        if param is None:
            raise OptionError(
                f"{path}: {where}unknown setting {key!r}: the settings are "
                f"{', '.join(sorted(known))}"
            )
        wants_switch = param.is_flag
        plain = isinstance(value, bool | int | float | str)
        if not plain or isinstance(value, bool) != wants_switch:
            wanted = "true or false" if wants_switch else "a number or a string"
            raise OptionError(f"{path}: {where}{key} needs {wanted}, not {value!r}")
        values[param.name] = value
    return values


def own_presets(path: Path | None) -> dict[str, Preset]:
    """The presets of a settings file; by default of the user's, if there is one.

    Raises:
        OptionError: the file cannot be read, or has something else for a preset.
    """
    if path is None:
        path = default_path()
        if not path.is_file():
            return {}
    return parse_presets(read_toml(path, error=OptionError).get(PRESETS, {}), str(path))


def apply_settings(context: typer.Context, value: Path | None) -> Path | None:
    """Callback of ``--config``, which is read first: its values become the options' defaults."""
    if context.resilient_parsing:
        return value
    path = value if value is not None else default_path()
    if value is None and not path.is_file():
        return value
    parent = context.parent
    group: Any = parent.command if parent is not None else None
    if group is None:
        commands = {str(context.info_name): settable(context.command.params)}
    else:
        commands = {
            name: settable(command.params)
            for name, command in group.commands.items()
            if any(param.name == "config" for param in command.params)
        }
    context.default_map = load_settings(path, str(context.command.name), commands)
    return value

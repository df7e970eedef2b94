"""How an option is declared: its help, its panel, and whether defaults can be set for it."""

from __future__ import annotations

from typing import Any

import typer
from typer.models import OptionInfo

from sage_cli.options.settings import env_name

__all__ = [
    "DECODING",
    "FILM",
    "FOLDERS",
    "MEDIA",
    "MODELS",
    "OUTPUT",
    "TEXT",
    "WORKERS",
    "argument",
    "named",
    "once",
    "setting",
]

MEDIA, MODELS, DECODING, OUTPUT = "Images and video", "Models", "Decoding", "Output"
FOLDERS, TEXT, FILM = "Folders and many files", "Prompt and text", "Long video"
WORKERS = "Several devices and machines"
"""Panels of the help page."""

_BY_NAME = "SAGE_*"
"""Stands for the environment variable until the option has its name."""


def setting(panel: str, help: str, *flags: str, **more: Any) -> Any:
    """An option that the settings file and the environment can also set.

    Without ``flags`` the flag is the parameter's name, see `named`.
    """
    return once(panel, help, *flags, envvar=_BY_NAME, show_envvar=False, **more)


def once(panel: str, help: str, *flags: str, **more: Any) -> Any:
    """An option of one run, which neither the file nor the environment sets."""
    return typer.Option(*flags, help=help, rich_help_panel=panel, **more)


def argument(metavar: str, help: str, show_default: str | bool = False) -> Any:
    """A positional argument."""
    return typer.Argument(metavar=metavar, help=help, show_default=show_default)


def named(name: str, annotation: Any) -> Any:
    """``annotation`` of a parameter, its option with the flag and variable of the ``name``."""
    for option in getattr(annotation, "__metadata__", ()):
        if isinstance(option, OptionInfo):
            if option.default is ... and not option.param_decls:
                option.param_decls = ("--" + name.replace("_", "-"),)
            if option.envvar == _BY_NAME:
                option.envvar = env_name(name)
    return annotation

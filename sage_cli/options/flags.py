"""How options are declared: what the settings file and the environment can set, and what not."""

from __future__ import annotations

from typing import Any

import typer

from sage_cli.options.settings import env_name

__all__ = ["DECODING", "MEDIA", "MODELS", "OUTPUT", "once", "setting"]

MEDIA, MODELS, DECODING, OUTPUT = "Pictures and video", "Models", "Decoding", "Output"
"""The panels of the help page."""


def setting(flag: str, help: str, panel: str, **more: Any) -> Any:
    """An option that the settings file and the environment can also set."""
    name = flag.split("/")[0]
    return typer.Option(
        flag, help=help, rich_help_panel=panel, envvar=env_name(name), show_envvar=False, **more
    )


def once(flag: str, help: str, panel: str, **more: Any) -> Any:
    """An option about one run only, which neither the file nor the environment sets."""
    return typer.Option(flag, help=help, rich_help_panel=panel, **more)

"""``sage presets``: the prompts that ``--preset`` takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from sage_cli.options.flags import OUTPUT, once
from sage_cli.options.settings import env_name, own_presets
from sage_cli.options.shared import InfoOptions
from sage_cli.options.takes_options import takes_options
from sage_core.captioning.presets import builtin_presets

__all__ = ["presets"]


@dataclass(frozen=True)
class PresetsOptions(InfoOptions):
    """Options of ``sage presets``."""

    settings: Annotated[
        Path | None,
        once(
            OUTPUT,
            "Read your own presets from this settings file.",
            "--config",
            envvar=env_name("--config"),
            show_envvar=False,
            metavar="FILE",
            show_default="sage.toml in the user's settings folder",
        ),
    ] = None


@takes_options(PresetsOptions)
def presets(*, options: PresetsOptions) -> None:
    """List the prompts that --preset takes: sage's, and your own from sage.toml."""
    from sage_cli.console import set_verbosity
    from sage_cli.render.jsonout import SCHEMA
    from sage_cli.render.tables import print_json, print_table

    set_verbosity(options.verbose)
    known = builtin_presets() | own_presets(options.settings)
    if options.json:
        print_json({"schema": SCHEMA, "presets": [asdict(preset) for preset in known.values()]})
        return
    print_table(
        ("preset", "prompt", "options"),
        [
            (p.name, p.prompt or "(the default one)", ", ".join(map(_option, p.options.items())))
            for p in known.values()
        ],
    )


def _option(pair: tuple[str, object]) -> str:
    """``--name`` for a switch, ``--name value`` for others."""
    name, value = pair
    return f"--{name}" if value is True else f"--{name} {value}"

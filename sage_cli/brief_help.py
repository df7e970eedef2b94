"""``--help`` with the options of every day on one screen, ``--help-all`` with all of them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from types import MappingProxyType
from typing import Any

import typer
from typer.core import TyperCommand

__all__ = ["BriefHelp"]

_RUN = {
    "json": "Print JSON",
    "jsonl": "Print a JSON object per line",
    "output": "Write to FILE",
    "model": "Hub name or folder (default: a demo)",
    "max_new_tokens": "Length limit (256)",
    "frames": "Frames to take of a video",
    "stats": "Print speed and acceptance",
    "quiet": "Print errors only",
}
_CAPTION = {
    "prompt": "What to ask for, instead of a caption",
    "preset": "A known prompt: short, long, tags, ...",
    "prefix": "Begin each text so (trigger word)",
    "recursive": "Search folders inside folders",
    "sidecar": "Write NAME.txt (json, xmp) by each file",
    "existing": "If there: skip (default) or overwrite",
    "resume": "Go on with an earlier --jsonl --output",
    "segment": "Split a video: scenes, or SECONDS",
    "dry_run": "List what would be done, and the time",
}
EVERYDAY: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "caption": {**_CAPTION, **_RUN},
        "ask": {"schema": "Answer in JSON that follows a schema", **_RUN},
        "chat": _RUN,
    }
)
"""What ``--help`` of a command shows; of others it shows all."""


class BriefHelp(TyperCommand):
    """A command with both forms of help."""

    _all: Any = None

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with ``--help-all`` after ``--help``."""
        params = super().get_params(ctx)
        if self.name in EVERYDAY:
            self._all = self._all or _help_all(params[-1])  # one object, as the parser needs
            params = [*params, self._all]
        return params

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The options of every day, and the names of the others."""
        shown = copy(self)
        brief = EVERYDAY.get(str(self.name))
        if brief is not None:
            options = {param.name: param for param in self.params}
            arguments = [p for p in self.params if p.param_type_name == "argument"]
            shown.params = arguments + [_short(options[name], text) for name, text in brief.items()]
            others = [p.opts[0] for name, p in options.items() if name not in brief]
            names = ", ".join(name for name in others if name.startswith("-"))
            shown.epilog = f"More, explained by --help-all: {names}"
        TyperCommand.format_help(shown, ctx, formatter)


def _help_all(plain: Any) -> Any:
    """The option ``--help-all``, made of ``--help``."""
    option = copy(plain)
    option.name, option.opts, option.help = "help_all", ["--help-all"], "Show all options and exit."

    def show(ctx: Any, param: Any, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            TyperCommand.format_help(ctx.command, ctx, ctx.make_formatter())
            raise typer.Exit

    option.callback = show
    return option


def _short(param: Any, text: str) -> Any:
    """The option with a short help, among the options without a panel."""
    option = copy(param)
    option.rich_help_panel, option.show_default = None, False
    option.help = text if text.endswith(".") else f"{text}."
    if "|" in str(option.metavar):
        option.metavar = "KIND"
    return option

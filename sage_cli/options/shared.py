"""The options that commands share, and groups of them."""

from __future__ import annotations

from dataclasses import dataclass, fields, make_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from sage_cli.options import flags
from sage_cli.options.decoding import DecodingOptions
from sage_cli.options.media import PROMPT, MediaOptions
from sage_cli.options.models import ModelOptions
from sage_cli.options.settings import apply_settings

if TYPE_CHECKING:
    from sage_core.media import MediaLimits

__all__ = ["PROMPT", "VERBOSE", "InfoOptions", "ListOptions", "RunOptions", "subset"]

_setting = partial(flags.setting, flags.OUTPUT)
_once = partial(flags.once, flags.OUTPUT)

VERBOSE = "sage_cli.verbose"
"""Where a context's ``meta`` says that tracebacks are wanted."""


def _remember_verbose(context: typer.Context, value: bool) -> bool:
    """Callback of ``--verbose``: for the error handler outside of the command."""
    context.meta[VERBOSE] = value
    return value


@dataclass(frozen=True)
class _Verbose:
    verbose: Annotated[
        bool,
        _setting("Print tracebacks and the libraries' warnings.", callback=_remember_verbose),
    ] = False


@dataclass(frozen=True)
class InfoOptions(_Verbose):
    """Options of the commands that only print information."""

    json: Annotated[bool, _once("Print JSON.")] = False


@dataclass(frozen=True)
class ListOptions(InfoOptions):
    """Options of ``sage models``."""

    fitting: Annotated[
        str | None,
        _once(
            "List the drafts that fit MODEL instead, best first, each with the reason.",
            "--for",
            metavar="MODEL",
        ),
    ] = None


@dataclass(frozen=True)
class _OutputOptions:
    json: Annotated[bool, _once("Print JSON: one object, or a list of them for several files.")] = (
        False
    )
    jsonl: Annotated[bool, _once("Print one JSON object per line, as each file is done.")] = False
    output: Annotated[
        Path | None,
        _once(
            "Write to FILE instead of standard output; FILE is replaced only when everything is "
            "done.",
            metavar="FILE",
        ),
    ] = None
    stats: Annotated[bool, _setting("Print a table of speed and acceptance to standard error.")] = (
        False
    )
    live: Annotated[
        bool | None,
        _setting(
            "Show the tree while decoding; needs a terminal.",
            "--live/--no-live",
            show_default="when standard output and error are terminals",
        ),
    ] = None
    save_view: Annotated[
        Path | None,
        _once(
            "Save the view: the last frame as FILE.svg, or the whole run as FILE.html, a page to "
            "step through.",
            metavar="FILE",
        ),
    ] = None
    quiet: Annotated[
        bool, _setting("Print errors only, and show no view unless --live is given.")
    ] = False
    config: Annotated[
        Path | None,
        _setting(
            "Read default settings from this file.",
            metavar="FILE",
            is_eager=True,
            callback=apply_settings,
            show_default="sage.toml in the user's settings folder",
        ),
    ] = None


# The fields of the last base come first.
@dataclass(frozen=True)
class RunOptions(_Verbose, _OutputOptions, DecodingOptions, ModelOptions, MediaOptions):
    """Options of the commands that run a model, as the command line gives them."""

    @property
    def edits_text(self) -> bool:
        """Whether the text of a result may differ from what is decoded."""
        return False

    @property
    def reads(self) -> list[str]:
        """Files that options name, which no result may be written over."""
        named = (self.files_from, self.draft_vocab)
        return [name for name in named if name is not None]

    def loading(self) -> dict[str, Any]:
        """Keyword arguments of `sage_core.load`."""
        given = {field.name: getattr(self, field.name) for field in fields(ModelOptions)}
        given["target"] = given.pop("model")
        given["draft"] = None if self.draft == "none" else self.draft
        return given

    def media_limits(self) -> MediaLimits:
        """What decoding a file may take.

        Raises:
            OptionError: a value is out of range.
        """
        from sage_core.media import MediaLimits

        return MediaLimits(round(self.media_memory * 2**30), self.media_seconds)

    def decoding(self) -> dict[str, Any]:
        """Keyword arguments of `sage_core.Options`: all that were given and that it has."""
        from sage_core.options import Options

        known = {field.name for field in fields(Options)}
        given = {k: v for k, v in vars(self).items() if k in known and v is not None}
        if self.repetition_penalty is not None:
            given["generation"] = {"repetition_penalty": self.repetition_penalty}
        if self.stats:
            given["phase_times"] = True
        return given


def subset(name: str, names: set[str]) -> type:
    """A frozen dataclass of some of `RunOptions`' fields, with their flags, help and defaults."""
    kinds = get_type_hints(RunOptions, include_extras=True)
    chosen = [(f.name, kinds[f.name], f) for f in fields(RunOptions) if f.name in names]
    return make_dataclass(name, chosen, frozen=True)

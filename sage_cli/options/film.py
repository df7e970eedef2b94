"""The options for long video: segments, subtitles, a summary."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import typer

from sage_cli.options import flags
from sage_core.errors import OptionError

__all__ = ["SUBTITLES", "FilmOptions"]

_setting = partial(flags.setting, flags.FILM)
_once = partial(flags.once, flags.FILM)

SUBTITLES = ("srt", "vtt")


def _split(text: str) -> str:
    """Text that `sage_core.media.segments.Split.parse` reads."""
    from sage_core.media.segments import Split

    try:
        Split.parse(str(text))
    except OptionError as error:
        raise typer.BadParameter(str(error)) from None
    return text


@dataclass(frozen=True)
class FilmOptions:
    """How a long clip is split, and what is written of it."""

    segment: Annotated[
        str | None,
        _setting(
            "Describe a video in segments: windows of SECONDS, each beginning OVERLAP before the "
            "end of the last, or scenes.",
            parser=_split,
            metavar="scenes|SECONDS[:OVERLAP]",
        ),
    ] = None
    format: Annotated[
        Literal["text", "json", "srt", "vtt"],
        _once(
            "What is printed, or written beside videos with --sidecar: texts, JSON, or the "
            "segments as subtitles.",
            metavar="text|json|srt|vtt",
        ),
    ] = "text"
    summary: Annotated[
        bool, _setting("Describe the whole video as well, by its segments' texts.")
    ] = False

    @property
    def subtitles(self) -> bool:
        """Whether subtitles are printed."""
        return self.format in SUBTITLES

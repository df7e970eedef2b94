"""The options about input files and how videos are sampled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import typer

from sage_cli.options import flags
from sage_core.checks import no_utf8_at

__all__ = ["PROMPT", "MediaOptions", "usable_prompt"]

_setting = partial(flags.setting, flags.MEDIA)
_once = partial(flags.once, flags.MEDIA)


def usable_prompt(text: str | None) -> str | None:
    """A prompt as it was given. Raises if it is blank or no UTF-8."""
    if text is not None and not text.strip():
        raise typer.BadParameter("the prompt is empty: leave it out for the default one")
    if text is not None and no_utf8_at(text) is not None:
        raise typer.BadParameter("the prompt is not UTF-8 text: write it in UTF-8")
    return text


PROMPT: Any = _setting(
    "Prompt, instead of the default request for a caption.", metavar="TEXT", callback=usable_prompt
)


def _seconds(text: str) -> float:
    """A time in seconds from ``90``, ``1:30`` or ``0:01:30.5``."""
    try:
        value = 0.0
        for part in str(text).split(":"):
            number = float(part)
            if not 0 <= number < float("inf"):
                raise ValueError(text)
            value = value * 60 + number
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a time: write seconds, or minutes:seconds"
        ) from None
    return value


@dataclass(frozen=True)
class MediaOptions:
    """Which files, and what is taken of a video."""

    files_from: Annotated[
        str | None,
        _once(
            "Read more file names from FILE, or from standard input with '-': one per line, or "
            "separated by NUL bytes.",
            metavar="FILE",
        ),
    ] = None
    frames: Annotated[
        int | None, _setting("Number of frames to sample from a video.", min=1, metavar="N")
    ] = None
    fps: Annotated[
        float | None, _setting("Frames to sample per second of a video.", metavar="RATE")
    ] = None
    start: Annotated[
        float | None,
        _once(
            "Use a video from this time on: seconds, or minutes:seconds.",
            parser=_seconds,
            metavar="TIME",
        ),
    ] = None
    end: Annotated[
        float | None,
        _once(
            "Use a video up to this time: seconds, or minutes:seconds.",
            parser=_seconds,
            metavar="TIME",
        ),
    ] = None
    max_pixels: Annotated[
        int | None,
        _setting("Downscale each image or frame to at most N pixels.", min=1, metavar="N"),
    ] = None
    media_memory: Annotated[
        float,
        _setting(
            "Refuse a file whose decoding needs more memory than this.",
            min=0.0625,
            max=1024,
            metavar="GIB",
        ),
    ] = 2.0
    media_seconds: Annotated[
        float,
        _setting(
            "Refuse a file whose decoding takes longer than this.",
            min=0.01,
            max=1_000_000,
            metavar="SECONDS",
        ),
    ] = 60.0

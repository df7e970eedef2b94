"""Subtitles of a clip's segments: SubRip (SRT) and WebVTT; and the segments as timed lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

__all__ = ["Cue", "srt", "timed_lines", "timestamp", "vtt"]


class Cue(NamedTuple):
    """A text and when it is shown, in seconds."""

    start: float
    end: float
    text: str


def srt(cues: Iterable[Cue]) -> str:
    """SubRip. An arrow in a text is written as ``-> ``, since it would begin the next cue."""
    return "".join(
        f"{number}\n{timestamp(start, ',')} --> {timestamp(end, ',')}\n"
        f"{_lines(text).replace('-->', '->')}\n\n"
        for number, (start, end, text) in enumerate(_in_turn(cues), 1)
    )


def vtt(cues: Iterable[Cue], note: str = "") -> str:
    """WebVTT, with ``note`` as a comment at the beginning."""
    comment = f"NOTE\n{_lines(note).replace('-->', '->')}\n\n" if note.strip() else ""
    return f"WEBVTT\n\n{comment}" + "".join(
        f"{timestamp(start, '.')} --> {timestamp(end, '.')}\n{_escaped(_lines(text))}\n\n"
        for start, end, text in _in_turn(cues)
    )


def timed_lines(cues: Iterable[Cue]) -> str:
    """A line for each text, after its times: ``[00:00:10.0 - 00:00:20.5] ...``."""
    return "\n".join(
        f"[{_tenths(start)} - {_tenths(end)}] {' '.join(text.split())}" for start, end, text in cues
    )


def timestamp(seconds: float, point: str) -> str:
    """Hours, minutes, seconds and behind ``point`` milliseconds."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, rest = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{rest:03}"


def _tenths(seconds: float) -> str:
    return timestamp(round(seconds, 1), ".")[:-2]


def _in_turn(cues: Iterable[Cue]) -> Iterator[Cue]:
    """The cues with a text, each ending where the next begins: players show one at a time.

    Times are whole milliseconds and increase.
    """
    found: Sequence[Cue] = sorted(cue for cue in cues if cue.text.strip())
    begin = 0
    for at, cue in enumerate(found):
        begin = max(begin, round(cue.start * 1000))
        end = round(cue.end * 1000)
        if at + 1 < len(found):
            end = min(end, round(found[at + 1].start * 1000))
        end = max(end, begin + 1)
        yield Cue(begin / 1000, end / 1000, cue.text)
        begin = end


def _lines(text: str) -> str:
    """``text`` without empty lines, which would end a cue, and without control characters."""
    lines = ("".join(c for c in one if c.isprintable() or c == "\t") for one in text.splitlines())
    return "\n".join(line.strip() for line in lines if line.strip())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

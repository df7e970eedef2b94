"""Subtitles of a clip's segments: SubRip (SRT) and WebVTT; and the segments as timed lines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Cue", "Subtitles", "subtitles", "timed_lines", "timestamp"]


class Cue(NamedTuple):
    """A text and when it is shown, in seconds."""

    start: float
    end: float
    text: str


class Subtitles:
    """Subtitles that are written cue by cue, in the order of their beginnings.

    A cue ends where the next one begins, since players show one at a time, so each is written when
    the next is known. Times are whole milliseconds and increase.

    Args:
        kind: ``srt`` (SubRip: an arrow in a text, which would begin a cue, is written as ``->``) or
            ``vtt`` (WebVTT).
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._held: Cue | None = None
        self._reached = 0
        """Milliseconds at which the last cue has ended."""
        self._number = 0

    def push(self, cue: Cue) -> str:
        """What can be written with ``cue`` as the next one; nothing for one without a text."""
        if not cue.text.strip():
            return ""
        ready = self._header() + self._written(cue.start)
        self._held = cue
        return ready

    def finish(self, note: str = "") -> str:
        """The rest; WebVTT with ``note`` as a comment."""
        ready = self._header() + self._written(None)
        self._number = 0
        if self._kind == "vtt" and note.strip():
            ready += f"NOTE\n{_lines(note).replace('-->', '->')}\n\n"
        return ready

    def _header(self) -> str:
        first = self._held is None and not self._number
        return "WEBVTT\n\n" if first and self._kind == "vtt" else ""

    def _written(self, next_start: float | None) -> str:
        if self._held is None:
            return ""
        cue, self._held = self._held, None
        begin = max(self._reached, round(cue.start * 1000))
        end = cue.end if next_start is None else min(cue.end, next_start)
        self._reached = max(round(end * 1000), begin + 1)
        self._number += 1
        lines = _lines(cue.text)
        point = "," if self._kind == "srt" else "."
        times = f"{timestamp(begin / 1000, point)} --> {timestamp(self._reached / 1000, point)}"
        if self._kind == "srt":
            return f"{self._number}\n{times}\n{lines.replace('-->', '->')}\n\n"
        return f"{times}\n{_escaped(lines)}\n\n"


def subtitles(kind: str, cues: Iterable[Cue], note: str = "") -> str:
    """All of ``cues``, in any order, as `Subtitles`."""
    writer = Subtitles(kind)
    return "".join(writer.push(cue) for cue in sorted(cues)) + writer.finish(note)


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


def _lines(text: str) -> str:
    """``text`` without empty lines, which would end a cue, and without control characters."""
    lines = ("".join(c for c in one if c.isprintable() or c == "\t") for one in text.splitlines())
    return "\n".join(line.strip() for line in lines if line.strip())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

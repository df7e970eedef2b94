"""The segments of a video as subtitles."""

from __future__ import annotations

from sage_cli.console import clean
from sage_cli.sinks.sink import Record, Sink, Write
from sage_core.captioning.subtitles import Cue, srt, vtt

__all__ = ["Subtitles", "subtitles"]


class Subtitles(Sink):
    """Prints the subtitles of one video; ``kind`` is ``srt`` or ``vtt``."""

    def __init__(self, write: Write, kind: str, *, for_terminal: bool) -> None:
        self._write = write
        self._kind = kind
        self._for_terminal = for_terminal

    def result(self, label: str, record: Record) -> None:
        text = subtitles(record, self._kind)
        self._write(clean(text) if self._for_terminal else text)


def subtitles(record: Record, kind: str) -> str:
    """The subtitles of a record with segments; those without a text are left out."""
    cues = [
        Cue(one["start"], one["end"], one["text"])
        for one in record.get("segments", ())
        if "text" in one
    ]
    return srt(cues) if kind == "srt" else vtt(cues, record.get("summary") or "")

"""The segments of videos, printed as each is done: as lines of text, or as subtitles."""

from __future__ import annotations

from sage_cli.console import clean
from sage_cli.sinks.sink import Record, Sink, Write
from sage_cli.sinks.text import PlainText
from sage_core.captioning import subtitles
from sage_core.captioning.subtitles import Cue, timed_lines

__all__ = ["PrintedSubtitles", "SegmentLines", "as_subtitles"]


class PrintedSubtitles(Sink):
    """The subtitles of one video; ``kind`` is ``srt`` or ``vtt``."""

    def __init__(self, write: Write, kind: str, *, for_terminal: bool) -> None:
        self._writer = write
        self._subtitles = subtitles.Subtitles(kind)
        self._for_terminal = for_terminal
        self._open = False
        """Whether there are segments whose `result` has not come."""

    def segment(self, label: str, segment: Record) -> None:
        if "text" in segment:
            self._open = True
            self._write(self._subtitles.push(_cue(segment)))

    def result(self, label: str, record: Record) -> None:
        self._open = False
        self._write(self._subtitles.finish(record.get("summary") or ""))

    def close(self) -> None:
        if self._open:  # the run ends early
            self.result("", {})

    def _write(self, text: str) -> None:
        if text:
            self._writer(clean(text) if self._for_terminal else text)


class SegmentLines(PlainText):
    """A line for each segment, after its times, and then the summary; pictures as `PlainText`."""

    _at: str | None = None
    """The video whose lines are being printed."""

    def segment(self, label: str, segment: Record) -> None:
        if "text" in segment:
            heading = self._heading(label) if self._at != label else ""
            self._at = label
            self._print(heading, timed_lines([_cue(segment)]) + "\n")

    def result(self, label: str, record: Record) -> None:
        if "segments" not in record:
            super().result(label, record)
            return
        if self._at != label:  # a copy of another file
            self._print(self._heading(label), record["text"] + "\n")
        elif record.get("summary"):
            self._print("", f"\n{record['summary'].strip()}\n")
        self._at = None

    def _print(self, heading: str, text: str) -> None:
        self._write(heading + (clean(text) if self._for_terminal else text))


def as_subtitles(record: Record, kind: str) -> str:
    """The subtitles of a record with segments; those without a text are left out."""
    cues = [_cue(one) for one in record.get("segments", ()) if "text" in one]
    return subtitles.subtitles(kind, cues, record.get("summary") or "")


def _cue(segment: Record) -> Cue:
    return Cue(segment["start"], segment["end"], segment["text"])

"""Splitting a clip: windows of equal length, or scenes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from sage_core.errors import InputError, OptionError
from sage_core.media.open import cuts_here, length_here, open_here
from sage_core.media.scenes import require_scenes
from sage_core.media.types import Clip, Picture, Sampling
from sage_core.media.video_pyav import KeptVideo

SCANNED = 60.0
"""Seconds of a clip that are searched for cuts at a time, so that its beginning is described
before its end is searched, and the limit of time for a file holds for each."""
LEAST = 0.1
"""Seconds of the shortest segment that can be asked for."""

Part = tuple[float, float]
"""Start and end in seconds."""


class Reader(Protocol):
    """What reads a clip in parts: a `MediaWorker`, or an `InProcess` where there is none."""

    def length(self, source: str | BinaryIO, name: str) -> float | None: ...
    def cuts(self, source: str | BinaryIO, part: Part, name: str) -> list[float]: ...
    def begin_cuts(self, path: str, part: Part, name: str) -> None: ...
    def open(self, source: str | BinaryIO, sampling: Sampling, name: str) -> Picture | Clip: ...
    def begin(self, path: str, sampling: Sampling, name: str | None = None) -> None: ...


class InProcess:
    """A `Reader` that decodes in this process, without limits, when it is asked."""

    def __init__(self) -> None:
        self._kept = KeptVideo()

    def length(self, source: str | BinaryIO, name: str) -> float | None:
        return length_here(_regular(source), name, self._kept)

    def cuts(self, source: str | BinaryIO, part: Part, name: str) -> list[float]:
        return cuts_here(_regular(source), part, name, self._kept)

    def open(self, source: str | BinaryIO, sampling: Sampling, name: str) -> Picture | Clip:
        return open_here(_regular(source), sampling, name, self._kept)

    def begin_cuts(self, path: str, part: Part, name: str) -> None:
        return

    def begin(self, path: str, sampling: Sampling, name: str | None = None) -> None:
        return


def _regular(source: str | BinaryIO) -> Path | BinaryIO:
    if isinstance(source, str):
        return Path(source)
    source.seek(0)
    return source


@dataclass(frozen=True)
class Split:
    """How a clip is split.

    ``seconds`` is the length of windows, which begin ``overlap`` seconds before the one before
    them ends. None: scenes (extra ``scenes``), of which those under ``shortest`` seconds are joined
    with the one before.

    Raises:
        OptionError: a value is out of range.
    """

    seconds: float | None = None
    overlap: float = 0.0
    shortest: float = 1.0

    def __post_init__(self) -> None:
        if self.seconds is None:
            if not 0 <= self.shortest < math.inf:
                raise OptionError(f"scenes cannot be of at least {self.shortest!r} s")
            return
        if not LEAST <= self.seconds < math.inf:
            raise OptionError(f"segments must have {LEAST} s or more, not {self.seconds!r}")
        if not 0 <= self.overlap <= self.seconds / 2:
            raise OptionError(
                f"segments can overlap by half of their length at most, {self.seconds / 2:g} s, "
                f"not by {self.overlap:g} s"
            )

    @classmethod
    def parse(cls, text: str) -> Split:
        """From ``scenes``, ``scenes:SHORTEST``, ``SECONDS`` or ``SECONDS:OVERLAP``.

        Raises:
            OptionError: it is none of these, or a value is out of range.
        """
        first, _, second = text.partition(":")
        try:
            other = float(second) if second or text.endswith(":") else None
            if first == "scenes":
                return cls() if other is None else cls(shortest=other)
            return cls(float(first), other or 0.0)
        except OptionError:
            raise
        except ValueError:
            raise OptionError(
                f"unknown segments {text!r}: choose scenes, scenes:SHORTEST, SECONDS or "
                "SECONDS:OVERLAP"
            ) from None

    def check(self) -> None:
        """Raises:
        OptionError: the package that it needs is not installed.
        """
        if self.seconds is None:
            require_scenes()


def windows(start: float, end: float, split: Split) -> Iterator[Part]:
    """Windows over [start, end). A rest of less than a tenth of one is added to the last."""
    assert split.seconds is not None
    step = split.seconds - split.overlap
    for number in range(max(1, math.ceil((end - start) / step))):
        begin = round(start + number * step, 6)
        finish = round(begin + split.seconds, 6)
        if end - finish < split.seconds / 10:
            yield begin, end
            return
        yield begin, finish


def scenes(cuts: Iterable[float], start: float, end: float, shortest: float) -> Iterator[Part]:
    """Scenes of [start, end) between ``cuts``, which increase; each as soon as its end is known."""
    begin = start
    for cut in cuts:
        if cut - begin >= shortest and end - cut >= shortest and cut > begin:
            yield begin, cut
            begin = cut
    yield begin, end


def segments(
    source: str | BinaryIO,
    split: Split,
    name: str,
    reader: Reader,
    *,
    start: float | None = None,
    end: float | None = None,
    scanner: Reader | None = None,
) -> Iterator[Part]:
    """The segments of a clip in their order; none of a picture or an animation.

    ``reader`` reads the length. Scenes are found by ``scanner``, a minute of the clip at a time,
    while the caller does something else; the default is ``reader``.

    Raises:
        InputError: the file cannot be read, or ``start`` is beyond its end.
        OptionError: scenes without PySceneDetect.
    """
    length = reader.length(source, name)
    if length is None:
        return
    first, last = start or 0.0, length if end is None else min(end, length)
    if first >= length:
        raise InputError(
            f"{name}: start ({first:g} s) is beyond the end of the video ({length:.2f} s): "
            "choose an earlier start"
        )
    if split.seconds is not None:
        yield from windows(first, last, split)
    else:
        found = _cuts(source, (first, last), name, scanner or reader)
        yield from scenes(found, first, last, split.shortest)


def _cuts(source: str | BinaryIO, part: Part, name: str, scanner: Reader) -> Iterator[float]:
    """Cuts within a part; the search of the next minute begins before those of one are used."""
    require_scenes()
    start, end = part
    count = max(1, math.ceil((end - start) / SCANNED))
    bounds = [min(start + n * SCANNED, end) for n in range(count + 1)]
    for number in range(count):
        found = scanner.cuts(source, (bounds[number], bounds[number + 1]), name)
        if isinstance(source, str) and number + 2 <= count:
            scanner.begin_cuts(source, (bounds[number + 1], bounds[number + 2]), name)
        yield from (cut for cut in found if cut > start)

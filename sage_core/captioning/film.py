"""A long clip: a text for each segment, read ahead of the model, and one over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields, replace
from time import perf_counter
from typing import Any, BinaryIO

from sage_core.captioning.subtitles import Cue
from sage_core.captioning.summary import SUMMARY_PROMPT, summarize
from sage_core.engine.results import Stats
from sage_core.errors import InputError, OptionError
from sage_core.media import Clip, MediaWorker, Sampling
from sage_core.media.segments import Part, Reader, Split, segments
from sage_core.options import Options, TextRequest
from sage_core.pipeline import Pipeline
from sage_core.stream import Result
from sage_core.trees.steps import PhaseSeconds

__all__ = ["Film", "Segment", "caption_film", "film_segments"]


@dataclass(frozen=True)
class Segment:
    """A part of a clip with its text, or with the error that it has in place of one."""

    start: float
    """Seconds from the beginning of the clip."""
    end: float
    result: Result | None = None
    """Without its steps."""
    error: Exception | None = None
    read_seconds: float = 0.0
    """Waiting for its frames; 0 if they were decoded while another segment was described."""

    @property
    def cue(self) -> Cue | None:
        """The text with its times."""
        return None if self.result is None else Cue(self.start, self.end, self.result.text)

    @property
    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds by part: ``read`` frames, ``encode`` them as model inputs, ``prefill``
        (the vision encoder and the prompt, of both models) and ``decode`` (all further tokens).
        """
        stats = Stats() if self.result is None else self.result.stats
        return {
            "read": self.read_seconds,
            "encode": stats.media_seconds,
            "prefill": stats.seconds.prefill,
            "decode": stats.seconds.decode,
        }


@dataclass(frozen=True)
class Film:
    """The texts of a clip's segments in their order, and the one over all of them if asked for."""

    segments: tuple[Segment, ...]
    summary: Result | None
    stats: Stats
    """Totals, those of the summary included."""

    @property
    def cues(self) -> list[Cue]:
        """The texts with their times."""
        return [cue for segment in self.segments if (cue := segment.cue) is not None]


def caption_film(
    pipeline: Pipeline,
    file: str | BinaryIO,
    split: Split | str,
    prompt: str | None = None,
    *,
    summary: bool | str = False,
    on_segment: Callable[[Segment], None] | None = None,
    **more: Any,
) -> Film:
    """Describe each segment of a clip, and with ``summary`` the whole by their texts.

    ``summary`` may be a prompt with ``{captions}`` in it. ``on_segment`` is called with each one as
    it is done. Other arguments as for `film_segments`.

    Raises:
        InputError: not a clip, or none of its segments could be described.
        OptionError: as `film_segments`, or a summary prompt without ``{captions}``.
    """
    template = summary if isinstance(summary, str) else SUMMARY_PROMPT
    if summary and "{captions}" not in template:
        raise OptionError("the summary prompt lacks {captions}, where the captions stand")
    started = perf_counter()
    done: list[Segment] = []
    for segment in film_segments(pipeline, file, split, prompt, **more):
        done.append(segment)
        if on_segment is not None:
            on_segment(segment)
    found = tuple(done)
    results = [one.result for one in found if one.result is not None]
    if not results:
        errors = [one.error for one in found if one.error is not None]
        raise errors[0] if errors else InputError(f"{more.get('name') or file}: is not a clip")
    film = Film(found, None, Stats())
    whole = None
    if summary:
        names = {f.name for f in fields(Options)} - {"json_schema", "start_with"}
        options = {name: value for name, value in more.items() if name in names}
        passes = summarize(pipeline, film.cues, template, **options)
        results += passes
        whole = passes[-1]
    read = sum(one.read_seconds for one in found)
    totals = _totals([one.stats for one in results], perf_counter() - started, read)
    return Film(found, whole, totals)


def film_segments(
    pipeline: Pipeline,
    file: str | BinaryIO,
    split: Split | str,
    prompt: str | None = None,
    *,
    batch: int | str = "auto",
    reader: Reader | None = None,
    scanner: Reader | None = None,
    name: str | None = None,
    **options: Any,
) -> Iterator[Segment]:
    """Describe each segment of a clip; yields them in their order, none for a picture.

    The frames of a segment are decoded in another process while the one before it is described, and
    scenes are searched a minute ahead, so that memory does not grow with the length of the clip.

    Args:
        pipeline: the loaded models.
        file: a path, or an open file.
        split: into what, as `Split` or as its text (``scenes``, ``10``, ``10:2``).
        prompt: for each segment; None: the default one for videos.
        batch: segments that are decoded at once, see `Pipeline.outcomes`.
        reader: decodes frames; None: a `MediaWorker` of its own.
        scanner: finds scenes; None: another one.
        name: of the file in messages and results.
        **options: fields of `Options`; ``start`` and ``end`` limit the clip.

    Raises:
        InputError: the file cannot be read; an error of one segment is its ``error``.
        OptionError: an option, or scenes without PySceneDetect.
    """
    chosen = Options.of(options)
    split = Split.parse(split) if isinstance(split, str) else split
    split.check()
    name = name or str(file)
    with ExitStack() as stack:
        reader = reader or stack.enter_context(MediaWorker())
        if split.seconds is None and scanner is None:
            scanner = stack.enter_context(MediaWorker())
        parts = segments(
            file, split, name, reader, start=chosen.start, end=chosen.end, scanner=scanner
        )
        opened = _OpenedParts(file, name, parts, pipeline.sampling(chosen), reader)
        requests = (TextRequest(clip, prompt) for clip in opened)
        outcomes = stack.enter_context(closing(pipeline.outcomes(requests, batch=batch, **options)))
        # Only what the order holds back is kept.
        held: dict[int, Segment] = {}
        written = 0
        for outcome in outcomes:
            place = opened.places.pop(outcome.number)
            if isinstance(outcome.error, OptionError):
                raise outcome.error
            result = None if outcome.error else replace(outcome.get(), steps=())
            held[place] = replace(opened.found.pop(place), result=result, error=outcome.error)
            held |= opened.failed
            opened.failed.clear()
            while written in held:
                yield held.pop(written)
                written += 1
        held |= opened.failed
        yield from (held[place] for place in sorted(held))


class _OpenedParts(Iterator[Clip]):
    """The clips of segments, opened when they are asked for; the next one is begun meanwhile."""

    def __init__(
        self,
        file: str | BinaryIO,
        name: str,
        parts: Iterator[Part],
        sampling: Sampling,
        reader: Reader,
    ) -> None:
        self._file, self._name, self._parts = file, name, parts
        self._sampling, self._reader = sampling, reader
        self._next = next(parts, None)
        self._count = 0
        self.places: dict[int, int] = {}
        """By the number of a clip that was given out: which segment it is."""
        self._given = 0
        self.found: dict[int, Segment] = {}
        self.failed: dict[int, Segment] = {}

    def __next__(self) -> Clip:
        while self._next is not None:
            part, self._next = self._next, None
            place, self._count = self._count, self._count + 1
            started = perf_counter()
            try:
                clip = self._reader.open(self._file, self._of(part), self._name)
            except InputError as error:
                self.failed[place] = Segment(*part, error=error)
                self._advance()
                continue
            self.found[place] = Segment(*part, read_seconds=perf_counter() - started)
            self.places[self._given] = place
            self._given += 1
            self._advance()
            assert isinstance(clip, Clip)
            return clip
        raise StopIteration

    def _advance(self) -> None:
        """Find the next part, and begin to decode it."""
        self._next = next(self._parts, None)
        if self._next is not None and isinstance(self._file, str):
            self._reader.begin(self._file, self._of(self._next), self._name)

    def _of(self, part: Part) -> Sampling:
        return replace(self._sampling, start=part[0], end=part[1])


def _totals(stats: Sequence[Stats], wall_seconds: float, read_seconds: float) -> Stats:
    """The sums of several texts' totals; the peak memory is the largest."""
    histogram: dict[int, int] = {}
    for one in stats:
        for length, count in one.accepted_histogram.items():
            histogram[length] = histogram.get(length, 0) + count
    phases = PhaseSeconds(
        **{
            phase.name: sum(getattr(one.seconds, phase.name) for one in stats)
            for phase in fields(PhaseSeconds)
        }
    )
    counted = {
        field.name: sum(getattr(one, field.name) for one in stats)
        for field in fields(Stats)
        if field.type == "int" and field.name != "peak_memory"
    }
    media = read_seconds + sum(one.media_seconds for one in stats)
    return Stats(
        **counted,
        accepted_histogram=dict(sorted(histogram.items())),
        seconds=phases,
        media_seconds=media,
        wall_seconds=max(0.0, wall_seconds - media),
        peak_memory=max((one.peak_memory for one in stats), default=0),
    )

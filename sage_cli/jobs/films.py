"""``sage caption --segment``: a text for each segment of a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sage_cli.console import complain, say
from sage_cli.exit_codes import ExitCode, code_of, worst
from sage_cli.jobs.decode import Job
from sage_cli.jobs.request import Request
from sage_cli.options.caption import CaptionOptions
from sage_cli.options.film import SUBTITLES
from sage_core.captioning.records import film_record, segment_record
from sage_core.captioning.subtitles import timestamp
from sage_core.errors import InputError, OptionError
from sage_core.media import MediaLimits, MediaWorker
from sage_core.media.segments import InProcess, Reader, Split

if TYPE_CHECKING:
    from sage_core.captioning.film import Film, Segment

__all__ = ["FilmJob", "check_film", "follow_format"]

_EVERY = 30.0
"""Seconds between lines on how far a video is."""


def follow_format(options: CaptionOptions) -> CaptionOptions:
    """``--format`` is the one of sidecars in its place, and ``--format json`` is ``--json``."""
    if options.sidecar == "txt" and options.format != "text":
        options = replace(options, sidecar=options.format)
    if options.format == "json" and (options.sidecar is None or options.output is not None):
        options = replace(options, json=not options.jsonl)
    return options


def check_film(options: CaptionOptions, *, several: bool) -> None:
    """Refuse options of segments and subtitles that do not go together.

    Raises:
        OptionError: see above.
    """
    if options.segment is None:
        asked = options.sidecar if options.sidecar in SUBTITLES else options.format
        if asked in SUBTITLES:
            raise OptionError(f"{asked} holds the segments of a video: give --segment")
        if options.summary:
            raise OptionError("--summary is over the segments of a video: give --segment")
        return
    Split.parse(options.segment).check()
    if options.live or options.save_view is not None:
        raise OptionError("--segment decodes many texts: leave out --live and --save-view")
    if options.subtitles and (options.json or options.jsonl):
        raise OptionError(f"--format {options.format} excludes --json and --jsonl")
    if options.engine != "local" or options.workers != "1":
        raise OptionError("--segment works in one process: leave out --workers and --engine")
    printed = options.sidecar is None or options.output is not None
    if options.subtitles and not printed and options.sidecar != options.format:
        raise OptionError(
            f"with sidecars nothing is printed: give --sidecar {options.format}, or --output FILE"
        )
    if options.subtitles and several and printed:
        raise OptionError(
            f"--format {options.format} prints the subtitles of one video: for several give "
            f"--sidecar {options.format}"
        )
    if options.format == "srt" and options.summary:
        raise OptionError("SRT has no place for a summary: use --format vtt, text or json")


class FilmJob(Job):
    """Describes videos in segments, and pictures as always."""

    _options: CaptionOptions

    def run(
        self,
        requests: Sequence[Request],
        batch: str = "1",
        media: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> ExitCode:
        """Do all requests, one file after another; ``batch`` segments of one at once.

        There is no saved view, so that ``media`` is not used.
        """
        with self.results(), _readers(self._options.media_limits()) as readers:
            for request in requests:
                self.codes.append(self._film(request, batch, *readers))
        return worst(self.codes)

    def _film(self, request: Request, batch: str, reader: Reader, scanner: Reader) -> ExitCode:
        name = request.sources[0].label
        found: list[ExitCode] = []

        def act() -> None:
            from sage_core.captioning.film import caption_film

            file = request.sources[0].open()
            if reader.length(file, name) is None:
                if self._options.subtitles or self._options.sidecar in SUBTITLES:
                    raise InputError(f"{name}: has no segments for subtitles: give a video")
                found.append(self._one(request, last=True) or ExitCode.OK)
                return
            film = caption_film(
                self._pipeline,
                file,
                str(self._options.segment),
                request.prompt,
                summary=self._options.summary,
                on_segment=self._follow(request.label),
                batch=batch if batch == "auto" else int(batch),
                reader=reader,
                scanner=scanner,
                name=name,
                **{**self._options.decoding(), **request.options},
            )
            self._write_film(request, film)

        code = self._attempt(request, act, last=True)
        return found[0] if found else code or ExitCode.OK

    def _write_film(self, request: Request, film: Film) -> None:
        for segment in film.segments:
            if segment.error is not None:
                at = f"{request.label} at {timestamp(segment.start, '.')}"
                complain(segment.error, name=at, verbose=self._options.verbose)
                self.codes.append(code_of(segment.error))
        record: dict[str, Any] = film_record(
            film,
            files=request.names,
            pipeline=self._pipeline,
            seed=request.options.get("seed", self._options.seed),
            key=request.key,
        )
        self._write_record(request, record, None)
        self._print_stats(request, film.stats, record["lossy"])

    def _follow(self, label: str) -> Callable[[Segment], None]:
        """Called after each segment: prints it, and says now and then how far the video is."""
        said, count = monotonic(), 0

        def done(segment: Segment) -> None:
            nonlocal said, count
            count += 1
            for sink in self.all_sinks():
                sink.segment(label, segment_record(segment))
            if monotonic() - said > _EVERY and not self._options.quiet:
                said = monotonic()
                say(f"{label}: {count} segments, up to {timestamp(segment.end, '.')}")

        return done


@contextmanager
def _readers(limits: MediaLimits) -> Iterator[tuple[Reader, Reader]]:
    """What decodes frames, and what finds scenes meanwhile."""
    if not MediaWorker.supported():
        here = InProcess()
        yield here, here
        return
    with MediaWorker(limits) as reader, MediaWorker(limits) as scanner:
        yield reader, scanner

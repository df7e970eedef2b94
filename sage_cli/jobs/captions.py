"""``sage caption``: a text for each file, to all outputs."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from sage_cli.console import complain, counted, display_name, is_terminal, say, set_verbosity
from sage_cli.exit_codes import ExitCode
from sage_cli.jobs.decode import Job, finish, load
from sage_cli.jobs.films import FilmJob, check_film, follow_format
from sage_cli.jobs.inputs import STDIN, Source
from sage_cli.jobs.media import MediaOpener
from sage_cli.jobs.plan import Plan
from sage_cli.jobs.request import Request
from sage_cli.jobs.workers import check_workers, find_engine, finish_elsewhere
from sage_cli.options.caption import CaptionOptions
from sage_cli.options.check import check
from sage_cli.render.jsonout import SCHEMA, dump
from sage_cli.render.outputs import (
    AtomicFile,
    OutputFile,
    check_not_input,
    check_writable,
    opened,
    stdout_writer,
)
from sage_cli.sinks.appended import AppendedFile, finished_keys
from sage_cli.sinks.exports import Exports, check_export
from sage_cli.sinks.failures import Failures
from sage_cli.sinks.progress import RunProgress, duration
from sage_cli.sinks.sidecars import Sidecars, places
from sage_cli.sinks.sink import Sink, Write
from sage_cli.sinks.subtitles import PrintedSubtitles, SegmentLines
from sage_core.captioning.prompts import PromptTemplate
from sage_core.errors import InputError, MemoryExhaustedError, OptionError

if TYPE_CHECKING:
    from sage_core import Pipeline

__all__ = ["run"]

_TRIED = 3
"""Files that ``--dry-run`` captions to estimate the time."""


def run(
    sources: Sequence[Source],
    template: PromptTemplate | None,
    options: CaptionOptions,
    batch: str,
    skipped: Counter[str],
) -> ExitCode:
    """Caption all ``sources``; returns the worst of the exit codes.

    Without a ``template`` of their prompts they get the default one.
    ``skipped`` are numbers of files in folders that were left out, by reason.

    Raises:
        SageError: something that concerns all of them, such as an option or the model.
    """
    set_verbosity(options.verbose)
    options = follow_format(options)
    with MediaOpener(sources, options) as opener:
        several = len(sources) * options.captions > 1 or any(s.below is not None for s in sources)
        names = [source.name for source in sources]
        check(options, several=several, inputs=names, batch=batch)
        _check(options, names)
        check_film(options, several=several)
        _check_tables(sources, options)
        sidecars: dict[str, Path] = {}
        if options.sidecar is not None:
            files = [(source.name, source.relative) for source in sources]
            sidecars = places(files, options.sidecar, options.output_dir)
            _check_sidecars(sidecars, options, names)
        make = AppendedFile if options.resume else AtomicFile
        output = None if options.dry_run else options.output
        with opened(output, make) as file:
            done = file.keys if isinstance(file, AppendedFile) else set()
            if options.dry_run and options.resume and options.output is not None:
                done = finished_keys(options.output)
            plan = Plan(sources, template, options, sidecars, done)
            run = _Run(options, plan, file, sidecars, several=several, skipped=skipped)
            # Of a video in segments, the whole is not decoded.
            whole = [request.sources[0] for request in plan.requests]
            opener.expect(whole if options.segment is None else [])
            if options.dry_run:
                return run.dry(opener)
            return run.run(opener, batch)


class _Run:
    """The outputs of one run, and the job that fills them."""

    def __init__(
        self,
        options: CaptionOptions,
        plan: Plan,
        file: OutputFile | None,
        sidecars: dict[str, Path],
        *,
        several: bool,
        skipped: Counter[str],
    ) -> None:
        self._options = options
        self._plan = plan
        self._file = file
        self._sidecars = sidecars
        self._several = several
        self._skipped = plan.skipped + skipped

    def run(self, opener: MediaOpener, batch: str) -> ExitCode:
        """Caption what the plan says."""
        self._say_sidecars()
        requests = self._plan.requests
        if not requests:
            with self._job(None).results():
                return ExitCode.OK
        engine = find_engine(self._options, len(requests))
        if engine is not None:
            job = partial(self._job, None, elsewhere=True)
            return finish_elsewhere(requests, self._options, opener, job, batch, engine)
        return finish(requests, self._options, opener, self._job, batch)

    def _job(self, pipeline: Pipeline | None, *, elsewhere: bool = False) -> Job:
        options, total = self._options, sum(1 + len(r.copies) for r in self._plan.requests)
        sinks: list[Sink] = []
        if options.sidecar is not None:
            sidecars = Sidecars(
                options.sidecar,
                self._sidecars,
                captions=options.captions,
                append=options.existing == "append",
                language=options.language,
            )
            sinks.append(sidecars)
            self._finish_sidecars(sidecars)
        if options.export:
            earlier = self._file.records() if isinstance(self._file, AppendedFile) else ()
            sinks.append(Exports(options.export, earlier))
        if options.failures is not None:
            sinks.append(Failures(options.failures))
        printed = options.sidecar is None or options.output is not None
        kind = Job if options.segment is None else FilmJob

        def segments(write: Write, for_terminal: bool) -> Sink:
            if options.subtitles:
                return PrintedSubtitles(write, options.format, for_terminal=for_terminal)
            return SegmentLines(write, several=self._several, for_terminal=for_terminal)

        job = kind(
            options,
            pipeline,
            self._file,
            several=self._several,
            sinks=sinks,
            printed=printed,
            writer=None if options.segment is None else segments,
        )
        works = pipeline is not None or elsewhere or not total
        if self._several and not options.quiet and works:
            bar = is_terminal(sys.stderr) and not job.interactive
            sinks.append(RunProgress(total, bar=bar, skipped=self._skipped))
        return job

    def _finish_sidecars(self, sidecars: Sidecars) -> None:
        """Write those that the end of an earlier run left out, from its results."""
        if isinstance(self._file, AppendedFile) and self._plan.without_sidecar:
            for record in self._file.records():
                if record.get("key") in self._plan.without_sidecar:
                    sidecars.result("", record)

    def _say_sidecars(self) -> None:
        """Say which sidecars are not where they are looked for."""
        odd = [name for name, path in self._sidecars.items() if path.stem == Path(name).name]
        if odd and not self._options.quiet:
            first = display_name(odd[0])
            say(
                f"{first}: another file has the same name before the suffix: the sidecar has the "
                f"suffix in its name (so for {len(odd)} in all)"
            )

    def dry(self, opener: MediaOpener) -> ExitCode:
        """List the files, and estimate the time by captioning the first three."""
        requests = self._plan.requests
        items = [request for one in requests for request in (one, *one.copies)]
        if self._options.json or self._options.jsonl:
            write = stdout_writer()
            lines = [self._planned(request) for request in items]
            if self._options.jsonl:
                write("".join(dump(line) + "\n" for line in lines))
            else:
                write(dump(lines, indent=2) + "\n")
        else:
            stdout_writer()("".join(display_name(one.names[0]) + "\n" for one in items))
        left_out = f"; left out: {counted(self._skipped)}" if self._skipped else ""
        say(f"{len(items)} texts to do{left_out}")
        if requests and self._options.segment is None:
            self._estimate(opener)
        return ExitCode.OK

    def _planned(self, request: Request) -> dict[str, Any]:
        path = self._sidecars.get(request.names[0])
        return {
            "schema": SCHEMA,
            "files": list(request.names),
            "prompt": request.prompt,
            "key": request.key,
            "sidecar": None if path is None else str(path),
        }

    def _estimate(self, opener: MediaOpener) -> None:
        pipeline = load(self._options, opener)
        requests = self._plan.requests[:_TRIED]
        started, failed = monotonic(), 0
        for request in requests:
            options = {**self._options.decoding(), **request.options}
            try:
                pipeline.stream([request.sources[0].open()], request.prompt, **options).result()
            except (InputError, MemoryExhaustedError) as error:
                complain(error, name=request.label)
                failed += 1
        seconds = (monotonic() - started) / len(requests) * len(self._plan.requests)
        draft = f" with {pipeline.draft_id}" if pipeline.draft_id else ""
        say(
            f"{pipeline.target_id}{draft} on {pipeline.device}: about {duration(seconds)} for all, "
            f"one after another, by the first {len(requests)}"
            + (f", of which {failed} failed" if failed else "")
        )


def _check(options: CaptionOptions, inputs: Sequence[str]) -> None:
    """Refuse options about many files that contradict each other.

    Raises:
        OptionError: see above.
    """
    if options.resume and not (options.jsonl and options.output):
        raise OptionError("--resume appends to a file of JSON lines: give --jsonl --output FILE")
    if options.resume and options.output is not None and _other(options.output, Path.is_file):
        raise OptionError(f"--resume {options.output}: is no regular file")
    if options.sidecar is None:
        for given, option in (
            (options.output_dir is not None, "--output-dir"),
            (options.existing != "skip", "--existing"),
        ):
            if given:
                raise OptionError(f"{option} is about sidecars: give --sidecar txt, json or xmp")
    if options.existing == "append" and options.sidecar != "txt":
        raise OptionError("--existing append adds lines of text: give --sidecar txt")
    if options.language is not None and options.sidecar != "xmp":
        raise OptionError("--language is written to XMP sidecars: give --sidecar xmp")
    check_workers(options, inputs)
    if options.captions > 1 and (options.sample is False or options.temperature == 0):
        raise OptionError("--captions samples several texts: leave out --greedy")
    if options.bulk and STDIN in inputs:
        raise OptionError("'-' has no name to write a result for: name the file")
    if options.output_dir is not None and _other(options.output_dir, Path.is_dir):
        raise OptionError(f"--output-dir {options.output_dir}: is no folder")
    outputs = [(path, "--export") for path in options.export or ()]
    if options.failures is not None:
        outputs.append((options.failures, "--failures"))
    for path, option in outputs:
        check_writable(path, option)
        check_not_input(path, option, inputs)
        if option == "--export":
            check_export(path)


def _check_tables(sources: Sequence[Source], options: CaptionOptions) -> None:
    tables = any(source.table is not None for source in sources)
    if tables and options.sidecar is not None and options.output_dir is None:
        raise OptionError("--sidecar: rows of a table have no folder: give --output-dir")


def _other(path: Path, kind: Callable[[Path], bool]) -> bool:
    """Whether there is something that is not of the kind."""
    return path.exists() and not kind(path)


def _check_sidecars(
    sidecars: Mapping[str, Path], options: CaptionOptions, inputs: Sequence[str]
) -> None:
    """Refuse sidecars that are inputs: nobody's picture is written to."""
    lists = [options.files_from] if options.files_from is not None else []
    read = {os.path.abspath(name) for name in [*inputs, *lists]}  # noqa: PTH100
    for path in sidecars.values():
        if os.path.abspath(path) in read:  # noqa: PTH100
            raise OptionError(f"--sidecar: {display_name(str(path))} would overwrite an input")

"""Files described in other processes: their records come back to this one, which writes them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from sage_cli.console import say, set_verbosity
from sage_cli.exit_codes import ExitCode, worst
from sage_cli.jobs.batching import in_order
from sage_cli.jobs.decode import Job
from sage_cli.jobs.inputs import STDIN
from sage_cli.jobs.media import MediaOpener
from sage_cli.jobs.request import Request, refusals
from sage_cli.options.caption import CaptionOptions
from sage_cli.options.decoding import AUTO
from sage_core.captioning.items import Item
from sage_core.captioning.pool import Pool, Work
from sage_core.captioning.records import error_of
from sage_core.captioning.settings import CaptionSettings
from sage_core.captioning.slots import automatic_count, find_slots
from sage_core.errors import InputError, OptionError, SageError

__all__ = ["check_workers", "find_engine", "finish_elsewhere"]

Numbered = tuple[int, Item]
Record = dict[str, Any]
Records = Generator[tuple[int, Record | SageError]]
"""Numbers of requests with what came of them."""
Engine = Callable[[Iterator[Numbered], CaptionSettings], Records]


@dataclass(frozen=True)
class Start:
    """What a worker gets."""

    settings: CaptionSettings
    quiet: bool
    verbose: bool


@dataclass(frozen=True)
class _Outcome:
    number: int
    """Of the request."""
    record: Record | SageError


def check_workers(options: CaptionOptions, inputs: Sequence[str]) -> None:
    """Refuse what other processes cannot do.

    Raises:
        OptionError: see above.
    """
    if options.ray_address is not None and options.engine != "ray":
        raise OptionError("--ray-address is about --engine ray")
    if options.workers == "1" and options.engine == "local":
        return
    for given, option in (
        (options.live, "--live"),
        (options.stats, "--stats"),
        (options.segment is not None, "--segment"),
    ):
        if given:
            raise OptionError(f"{option} needs a single process: leave out --workers and --engine")
    if STDIN in inputs:
        raise OptionError("'-' is read by one process: name the file, or leave out --workers")


def find_engine(options: CaptionOptions, texts: int) -> Engine | None:
    """What describes a number of texts elsewhere; None: this process does it.

    Raises:
        SageError: with ``--workers auto``, as `sage_core.load` before weights are read.
    """
    if options.engine == "ray":
        return partial(_on_ray, options)
    count = min(texts, 1 if options.workers == AUTO else int(options.workers))
    if options.workers == AUTO and texts > 1:
        count = min(texts, automatic_count(options.loading()))
    return None if count == 1 else partial(_in_processes, options, count)


def finish_elsewhere(
    requests: Sequence[Request],
    options: CaptionOptions,
    opener: MediaOpener,
    make_job: Callable[[], Job],
    batch: str,
    engine: Engine,
) -> ExitCode:
    """Do all requests with an engine, or refuse them; returns the worst exit code."""
    errors = refusals(requests, opener.worker)
    if opener.worker is not None:
        opener.worker.close()
    if errors is not None:
        return make_job().refuse(requests, errors)
    results = sys.stdout
    with (
        redirect_stdout(sys.stderr),  # Ray prints there that an actor has ended
        closing(_outcomes(requests, options, batch, engine)) as outcomes,
    ):
        # Only when the models are loaded: an error in that is no result, and needs no summary.
        first = next(outcomes, None)
        with redirect_stdout(results):
            job = make_job()
        with job.results():
            write = partial(_write, requests, job)
            if first is not None and job.ordered:
                in_order(chain([first], outcomes), write)
            elif first is not None:
                for outcome in chain([first], outcomes):
                    write(outcome)
    return worst(job.codes)


def _write(requests: Sequence[Request], job: Job, outcome: _Outcome) -> None:
    request, record = requests[outcome.number], outcome.record
    if isinstance(record, Exception):
        job.codes.append(job.fail(request, record))
    elif "error" in record:
        job.codes.append(job.fail(request, error_of(record)))
    else:
        job.write(request, record)
        job.codes.append(ExitCode.OK)


def _outcomes(
    requests: Sequence[Request], options: CaptionOptions, batch: str, engine: Engine
) -> Generator[_Outcome]:
    """The outcome of each request, in any order."""
    size = batch if batch == AUTO else int(batch)
    settings = CaptionSettings(options.loading(), options.decoding(), options.media_limits(), size)
    failed: list[_Outcome] = []
    with closing(engine(_items(requests, failed), settings)) as results:
        for number, record in results:
            yield _Outcome(number, record)
    yield from failed


def _items(requests: Sequence[Request], failed: list[_Outcome]) -> Iterator[Numbered]:
    """What workers get; requests that have nothing to read are put into ``failed``."""
    for number, request in enumerate(requests):
        try:
            yield number, request.item
        except InputError as error:
            failed.append(_Outcome(number, error))


def _in_processes(
    options: CaptionOptions, count: int, tasks: Iterator[Numbered], settings: CaptionSettings
) -> Records:
    """Processes on this machine."""
    start = Start(settings, options.quiet, options.verbose)
    notes: list[str] = []

    def ready(note: str) -> None:
        if note and not notes and not options.quiet:
            say(f"{count} workers: {note}")
        notes.append(note)

    pool = Pool(make, start, find_slots(count, options.device), ready=ready, notice=say)
    with closing(pool.run(tasks)) as results:
        for (number, _), record in results:
            yield number, record


def _on_ray(
    options: CaptionOptions, tasks: Iterator[Numbered], settings: CaptionSettings
) -> Records:
    """Actors of Ray."""
    from sage_core.captioning.ray_captioner import ray_records

    numbered = list(tasks)
    actors = None if options.workers == AUTO else int(options.workers)
    items = [item for _, item in numbered]
    records = ray_records(items, settings, actors=actors, address=options.ray_address)
    with closing(records):
        for place, record in records:
            yield numbered[place][0], record


def make(start: Start) -> Work[Numbered, Record]:
    """What a worker does, in its process."""
    set_verbosity(start.verbose)
    from sage_core.captioning.captioner import Captioner
    from sage_core.engine.costs.store import default_path

    settings = start.settings
    loading = {**settings.loading, "costs": default_path()}
    settings = CaptionSettings(loading, settings.options, settings.media, settings.batch)
    captioner = Captioner(settings, notice=(lambda line: None) if start.quiet else say)

    def run(tasks: Iterator[Numbered]) -> Iterator[tuple[int, Record]]:
        return captioner.records(item for _, item in tasks)

    return Work(run, captioner.width, captioner.pipeline.note)

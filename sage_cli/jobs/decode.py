"""From requests to results: load the models once, decode each request, write its result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sage_cli import signals
from sage_cli.console import (
    Progress,
    complain,
    display_name,
    is_terminal,
    say,
    set_verbosity,
    wants_live,
    with_progress,
)
from sage_cli.exit_codes import ExitCode, code_of, worst
from sage_cli.jobs.batching import batch_size, in_order
from sage_cli.jobs.media import MediaOpener
from sage_cli.jobs.request import Request, refusals
from sage_cli.options.check import check
from sage_cli.options.shared import RunOptions
from sage_cli.render.jsonout import failure_object
from sage_cli.render.outputs import AtomicFile, OutputFile, opened, stdout_writer
from sage_cli.render.streamer import Streamer
from sage_cli.sinks.json_output import Json
from sage_cli.sinks.sink import Record, Sink
from sage_cli.sinks.text import PlainText
from sage_cli.streams import OutputError
from sage_core.captioning.items import fewer_pixels
from sage_core.captioning.records import result_record
from sage_core.errors import InputError, OptionError, kind_of
from sage_core.options import TextRequest

if TYPE_CHECKING:
    from sage_cli.render.frame import History
    from sage_cli.render.page import SavedView
    from sage_core import Pipeline, Result, Stream
    from sage_core.engine.batching.scheduler import Outcome
    from sage_core.trees.steps import Step

__all__ = ["Job", "Request", "Watcher", "load", "run"]

Watcher = Callable[["Step", "Stream"], None]
"""Called after each step."""


def run(request: Request, options: RunOptions) -> ExitCode:
    """Do one request; returns its exit code.

    Raises:
        SageError: an option or the model.
    """
    set_verbosity(options.verbose)
    with MediaOpener(request.sources, options) as opener:
        check(options, several=False, inputs=request.names)
        with opened(options.output, AtomicFile) as file:
            return finish([request], options, opener, lambda pipeline: Job(options, pipeline, file))


def finish(
    requests: Sequence[Request],
    options: RunOptions,
    opener: MediaOpener,
    job: Callable[[Pipeline | None], Job],
    batch: str = "1",
) -> ExitCode:
    """Load the models and do all requests, or refuse them; returns the worst exit code."""
    # A large model takes minutes to load: not for files of which none can be used.
    errors = refusals(requests, opener.worker)
    if errors is not None:
        return job(None).refuse(requests, errors)
    return job(load(options, opener)).run(requests, batch, opener.shown)


def load(options: RunOptions, opener: MediaOpener) -> Pipeline:
    """The pipeline, with progress on a terminal and one line on the device and dtype chosen."""

    def load(progress: Progress) -> Pipeline:
        import sage_core
        from sage_core.engine.costs.store import default_path

        loaded: Pipeline = sage_core.load(
            **options.loading(),
            costs=default_path(),
            progress=progress,
            opener=opener,
            on_family=opener.begin,
        )
        return loaded

    pipeline = with_progress(load, quiet=options.quiet)
    if options.lossy is not None and not options.quiet:
        say(f"lossy rule {options.lossy}: the text may differ from the model's own")
    return pipeline


class Job:
    """Decodes requests one after another and writes their results in one place.

    Without a pipeline it can only `refuse`; without a ``file`` it writes to standard output.
    ``several`` results make a JSON list, and with ``headed`` texts are headed by their files'
    names. ``sinks`` get every record besides; with them, and no output asked for, nothing is
    printed if not ``printed``. ``writer`` makes what prints in place of texts.
    """

    def __init__(
        self,
        options: RunOptions,
        pipeline: Pipeline | None,
        file: OutputFile | None,
        *,
        several: bool = False,
        headed: bool = True,
        sinks: Sequence[Sink] = (),
        printed: bool = True,
        writer: Callable[[Callable[[str], None], bool], Sink] | None = None,
    ) -> None:
        self._options = options
        self._media: Mapping[str, Mapping[str, Any]] = {}
        self._loaded = pipeline
        self._file = file
        self._several = several
        self._sinks = sinks
        write = self._file.write if self._file is not None else stdout_writer()
        self._to_terminal = self._file is None and printed and is_terminal(sys.stdout)
        self._live = wants_live(options.live, quiet=options.quiet or not printed)
        self._write: Callable[[str], None] = write
        self.codes: list[ExitCode] = []
        self._again: list[Request] = []
        self._writer: Sink | None = None
        if options.json or options.jsonl:
            self._writer = Json(write, lines=options.jsonl, several=several)
        elif printed and writer is not None:
            self._writer = writer(write, self._to_terminal)
        elif printed:
            self._writer = PlainText(
                write, several=several and headed, for_terminal=self._to_terminal
            )

    @property
    def _pipeline(self) -> Pipeline:
        assert self._loaded is not None, "a job without a pipeline can only refuse"
        return self._loaded

    def refuse(self, requests: Sequence[Request], errors: Sequence[Exception]) -> ExitCode:
        """Report the error of each request; returns the worst of their exit codes."""
        with self.results():
            pairs = zip(requests, errors, strict=True)
            self.codes += [self.fail(request, error) for request, error in pairs]
        return worst(self.codes)

    def run(
        self,
        requests: Sequence[Request],
        batch: str = "1",
        media: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> ExitCode:
        """Decode all requests in order; returns the worst of their exit codes.

        ``media`` are previews of opened files for a saved view, added as they are opened.
        """
        from sage_core.options import Options

        self._media = media
        options = Options(**self._options.decoding())
        alone = self.interactive or options.single_text
        size = batch_size(batch, requests, 1 if alone else self._pipeline.pays)
        with self.results():
            if size > 1:
                self._batched(requests, size)
            else:
                for request in requests:
                    code = self._one(request, last=not self._several)
                    self.codes.append(self._smaller(request) if code is None else code)
            for request in self._again:
                self.codes.append(self._smaller(request))
        return worst(self.codes)

    @property
    def ordered(self) -> bool:
        """Whether results are to be written in the order of the requests."""
        return isinstance(self._writer, PlainText) or (
            isinstance(self._writer, Json) and not self._options.jsonl
        )

    @property
    def interactive(self) -> bool:
        """Whether the texts are watched on a terminal."""
        return self._live or self._streamer() is not None

    def _batched(self, requests: Sequence[Request], size: int) -> None:
        """Decode requests of one file each, ``size`` at once."""

        def finish(outcome: Outcome[Result]) -> None:
            request = requests[outcome.number]

            def write() -> None:
                self._finish(request, outcome.get(), None)
                self._print_stats(request, outcome.get())

            code = self._attempt(request, write, last=False)
            if code is None:  # alone, when the others are done
                self._again.append(request)
            else:
                self.codes.append(code)

        texts = (
            TextRequest([request.sources[0].later], request.prompt, request.options)
            for request in requests
        )
        outcomes = self._pipeline.outcomes(texts, batch=size, **self._options.decoding())
        with closing(outcomes):
            if isinstance(self._writer, Json | PlainText):
                in_order(outcomes, finish)
            else:
                for outcome in outcomes:
                    finish(outcome)

    @contextmanager
    def results(self) -> Iterator[None]:
        """Open while results are made; what is finished is kept, whatever ends the run."""
        with signals.raised_inside():
            try:
                yield
                for sink in self._all_sinks():
                    sink.close()
                if self._file is not None and not self._all_failed():
                    self._file.commit()
                for sink in self._all_sinks():
                    sink.commit()
            finally:
                self._keep_finished()

    def _all_failed(self) -> bool:
        """Whether there is not one text: an older file is not replaced by an empty one."""
        return all(self.codes) and not (self._options.json or self._options.jsonl)

    def _keep_finished(self) -> None:
        """After a failed run: finished results are printed, or left beside --output."""
        for sink in self._all_sinks():
            with suppress(OSError):
                sink.close()
        left = self._file.abandon() if self._file is not None else None
        if left is not None:
            say(f"the finished results are in {display_name(str(left))}")

    def _all_sinks(self) -> Sequence[Sink]:
        return self._sinks if self._writer is None else [self._writer, *self._sinks]

    def _one(self, request: Request, *, last: bool) -> ExitCode | None:
        """Decode one request by itself; see `_attempt`."""

        def start() -> Stream:
            files = [source.open() for source in request.sources]
            options = {**self._options.decoding(), **request.options}
            return self._pipeline.stream(files, request.prompt, **options)

        return self._attempt(request, lambda: self.decode(request, start), last=last)

    def _smaller(self, request: Request) -> ExitCode:
        """Decode a request by itself with fewer pixels, since memory was short."""
        code = None
        steps = fewer_pixels(self._options.max_pixels)
        for pixels in steps:
            say(f"{request.label}: out of memory: trying again with at most {pixels} pixels")
            options = {**request.options, "max_pixels": pixels}
            code = self._one(replace(request, options=options), last=pixels == steps[-1])
            if code is not None:
                break
        return code or ExitCode.OK

    def _attempt(
        self, request: Request, act: Callable[[], object], *, last: bool
    ) -> ExitCode | None:
        """Make one result; an error that concerns it alone is reported and becomes its code.

        None if memory was short and the attempt is not the ``last``.
        """
        try:
            act()
        except (BrokenPipeError, OutputError):
            raise
        except Exception as error:
            if signals.raised(error):
                raise
            if isinstance(error, OptionError):
                if not request.filled:
                    raise
                # A prompt that holds a placeholder of the model, or is too long.
                error = InputError(str(error))
            if kind_of(error) == "memory" and not last:
                return None
            return self.fail(request, error)
        return ExitCode.OK

    def fail(self, request: Request, error: Exception) -> ExitCode:
        """Report that there is no result, and why; returns its exit code."""
        for one in (request, *request.copies):
            record = failure_object(error, files=one.names, key=one.key)
            for sink in self._all_sinks():
                sink.failure(one.label, record)
        complain(error, name=request.label, verbose=self._options.verbose)
        return code_of(error)

    def decode(self, request: Request, start: Callable[[], Stream], *also: Watcher) -> Result:
        """Decode the stream that ``start`` opens, with live view or streaming, and write it."""
        from sage_cli.render.frame import History

        saved: SavedView | None = None
        streamer = self._streamer()
        stream: Stream | None = None
        try:
            with ExitStack() as stack:
                stream = start()
                stack.callback(stream.close)
                shown = f"{stream.policy}, lossy" if self._options.lossy else stream.policy
                history = History(request.label, shown, self._options.max_new_tokens)
                saved = self._saved_view(history)
                watchers = [*self._watchers(stack, request, history, streamer, saved), *also]
                for step in stream:
                    history.add(step)
                    for watch in watchers:
                        watch(step, stream)
                result = stream.result()
            # Only now, after the live view has restored the screen.
            self._finish(request, result, streamer)
        except (KeyboardInterrupt, Exception) as error:
            if stream is not None and not isinstance(error, BrokenPipeError | OutputError):
                self._show_partial(request, stream.text, streamer, signals.raised(error))
            raise
        finally:
            if saved is not None:
                self._save(saved)
        self._print_stats(request, result)
        return result

    def _print_stats(self, request: Request, result: Result) -> None:
        if self._options.stats:
            from sage_cli.render.stats import print_stats

            print_stats(result.stats, request.label, result.lossy)

    def _watchers(
        self,
        stack: ExitStack,
        request: Request,
        history: History,
        streamer: Streamer | None,
        saved: SavedView | None,
    ) -> list[Watcher]:
        """What follows each step: the live view or the text on the terminal, and a saved view."""
        watchers: list[Watcher] = []
        if self._live:
            from sage_cli.render.live import LiveView

            watchers.append(stack.enter_context(LiveView(history)).step)
        if streamer is not None:

            def follow(step: Step, stream: Stream) -> None:
                if step.is_prefill and isinstance(self._writer, PlainText):
                    self._writer.begin(request.label)
                streamer.update(stream.text)

            watchers.append(follow)
        if saved is not None:
            watchers.append(saved.step)
        return watchers

    def _streamer(self) -> Streamer | None:
        """For text on a terminal without the live view; not one that may be cut afterwards."""
        if self._options.edits_text:
            return None
        if self._to_terminal and not self._live and isinstance(self._writer, PlainText):
            return Streamer(self._write)
        return None

    def _saved_view(self, history: History) -> SavedView | None:
        if self._options.save_view is None:
            return None
        from sage_cli.render.page import SavedView

        return SavedView(self._options.save_view, history, self._media)

    def _save(self, saved: SavedView) -> None:
        models = self._pipeline.target_id
        if self._pipeline.draft_id:
            models += f" with {self._pipeline.draft_id}"
        try:
            if saved.save(models) and not self._options.quiet:
                say(f"view saved in {self._options.save_view}")
        except OSError as error:  # the text is still a result without its view
            complain(error, name="--save-view", verbose=self._options.verbose)
            self.codes.append(code_of(error))

    def _finish(self, request: Request, result: Result, streamer: Streamer | None) -> None:
        """Make the record of a result and write it.

        Raises:
            InputError: the file was written while it was read.
        """
        record: dict[str, Any] = result_record(
            result,
            files=request.names,
            pipeline=self._pipeline,
            seed=request.options.get("seed", self._options.seed),
            key=request.key,
        )
        if "max_pixels" in request.options:
            record["retried"] = {"max_pixels": request.options["max_pixels"]}
        self._write_record(request, record, streamer)

    def _write_record(
        self, request: Request, record: dict[str, Any], streamer: Streamer | None
    ) -> None:
        """Give a record, and those of copies, to all outputs. Raises as `Request.check`."""
        request.check()
        if streamer is not None:
            streamer.finish(record["text"])
        self.write(request, record, streamer)

    def write(self, request: Request, record: Record, streamer: Streamer | None = None) -> None:
        """Give the record of a result, and those of copies, to all outputs."""
        if request.caption is not None:
            record = {**record, "caption": request.caption}
        self._deliver(request, record, streamer)
        for copy in request.copies:
            same = {"files": list(copy.names), "key": copy.key, "same_as": request.names[0]}
            self._deliver(copy, {**record, **same}, None)
        if record.get("context_reached") is not None and not self._options.quiet:
            say(
                f"{request.label}: the text reached the model's context of "
                f"{record['context_reached']} tokens: what follows is less reliable"
            )
        if record.get("finish_reason") == "repetition" and not self._options.quiet:
            say(f"{request.label}: the text repeats itself and was ended there")

    def _deliver(self, request: Request, record: Record, streamer: Streamer | None) -> None:
        """Give a record to all outputs; one that cannot take it does not stop the others."""
        if streamer is None and self._writer is not None:
            self._writer.result(request.label, record)
        for sink in self._sinks:
            try:
                sink.result(request.label, record)
            except InputError as error:
                complain(error, verbose=self._options.verbose)
                self.codes.append(ExitCode.OTHER)

    def _show_partial(
        self, request: Request, text: str, streamer: Streamer | None, interrupted: bool
    ) -> None:
        """Leave an unfinished text on the terminal; nothing else gets a part of a text.

        One that failed is left only where it has been streamed already; it gets its line end.
        """
        if not text:
            return
        if streamer is not None:
            streamer.finish(text)
        elif interrupted and self._to_terminal and isinstance(self._writer, PlainText):
            self._writer.result(request.label, {"text": text})

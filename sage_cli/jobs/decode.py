"""From requests to results: load the models once, decode each request, write its result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
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
from sage_cli.render.jsonout import failure_object, result_object
from sage_cli.render.outputs import AtomicFile, opened, stdout_writer
from sage_cli.render.text import Json, PlainText, Streamer, Writer
from sage_cli.streams import OutputError
from sage_core.errors import OptionError

if TYPE_CHECKING:
    from sage_cli.render.frame import History
    from sage_cli.render.page import SavedView
    from sage_core import Pipeline, Result, Stream
    from sage_core.engine.batching.scheduler import Outcome
    from sage_core.trees.steps import Step

__all__ = ["Job", "Request", "Watcher", "load", "run"]

Watcher = Callable[["Step", "Stream"], None]
"""Called after each step."""


def run(
    requests: Sequence[Request], options: RunOptions, batch: str = "1", reads: Sequence[str] = ()
) -> ExitCode:
    """Do all of ``requests``, ``batch`` at once; returns the worst of their exit codes.

    ``reads`` are names of files that were read besides their sources.

    Raises:
        SageError: something that concerns all of them, such as an option or the model.
    """
    several = len(requests) > 1
    sources = [source for request in requests for source in request.sources]
    set_verbosity(options.verbose)
    with MediaOpener(sources, options) as opener:
        inputs = [source.name for source in sources]
        check(options, several=several, inputs=[*inputs, *reads], batch=batch)
        with opened(options.output) as file:
            # A large model takes minutes to load: not for files of which none can be used.
            errors = refusals(requests, opener.worker)
            if errors is not None:
                return Job(options, None, file, several=several).refuse(requests, errors)
            pipeline = load(options, opener)
            job = Job(options, pipeline, file, several=several, media=opener.shown)
            return job.run(requests, batch)


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
    names. ``media`` are previews of opened files for a saved view; they may be added later.
    """

    def __init__(
        self,
        options: RunOptions,
        pipeline: Pipeline | None,
        file: AtomicFile | None,
        *,
        several: bool,
        headed: bool = True,
        media: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._options = options
        self._media = media
        self._loaded = pipeline
        self._file = file
        write = self._file.write if self._file is not None else stdout_writer()
        self._to_terminal = self._file is None and is_terminal(sys.stdout)
        self._live = wants_live(options.live, quiet=options.quiet)
        self._write: Callable[[str], None] = write
        self.codes: list[ExitCode] = []
        self._writer: Writer
        if options.json or options.jsonl:
            self._writer = Json(write, lines=options.jsonl, several=several)
        else:
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

    def run(self, requests: Sequence[Request], batch: str = "1") -> ExitCode:
        """Decode all requests in order; returns the worst of their exit codes."""
        from sage_core.options import Options

        options = Options(**self._options.decoding())
        alone = self._live or self._streamer() or options.single_text
        size = batch_size(batch, requests, 1 if alone else self._pipeline.pays)
        with self.results():
            if size > 1:
                self._batched(requests, size)
            else:
                for request in requests:
                    self.codes.append(self._one(request))
        return worst(self.codes)

    def _batched(self, requests: Sequence[Request], size: int) -> None:
        """Decode requests of one file each, all with the same prompt, ``size`` at once."""

        def finish(outcome: Outcome[Result]) -> None:
            request = requests[outcome.number]

            def write() -> None:
                self._finish(request, outcome.get(), None)
                self._print_stats(request, outcome.get())

            self.codes.append(self._attempt(request, write))

        names, prompt = [request.sources[0].name for request in requests], requests[0].prompt
        outcomes = self._pipeline.captions(names, prompt, batch=size, **self._options.decoding())
        with closing(outcomes):
            in_order(outcomes, finish)

    @contextmanager
    def results(self) -> Iterator[None]:
        """Open while results are made; what is finished is kept, whatever ends the run."""
        with signals.raised_inside():
            try:
                yield
                self._writer.close()
                if self._file is not None and not self._all_failed():
                    self._file.commit()
            finally:
                self._keep_finished()

    def _all_failed(self) -> bool:
        """Whether there is not one text: an older file is not replaced by an empty one."""
        return all(self.codes) and not (self._options.json or self._options.jsonl)

    def _keep_finished(self) -> None:
        """After a failed run: finished results are printed, or left beside --output."""
        with suppress(OSError):
            self._writer.close()
        left = self._file.abandon() if self._file is not None else None
        if left is not None:
            say(f"the finished results are in {display_name(str(left))}")

    def _one(self, request: Request) -> ExitCode:
        """Decode one request by itself."""

        def start() -> Stream:
            files = [source.open() for source in request.sources]
            options = self._options.decoding()
            if request.json_schema is not None:
                options["json_schema"] = request.json_schema
            return self._pipeline.stream(files, request.prompt, **options)

        return self._attempt(request, lambda: self.decode(request, start))

    def _attempt(self, request: Request, act: Callable[[], object]) -> ExitCode:
        """Make one result; an error that concerns it alone is reported and becomes its code."""
        try:
            act()
        except (OptionError, BrokenPipeError, OutputError):
            raise
        except Exception as error:
            if signals.raised(error):
                raise
            return self.fail(request, error)
        return ExitCode.OK

    def fail(self, request: Request, error: Exception) -> ExitCode:
        """Report that there is no result, and why; returns its exit code."""
        self._writer.failure(request.label, failure_object(error, files=request.names))
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
        """For text on a terminal without the live view."""
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
        self._write_result(request, result, streamer)
        if result.context_reached is not None and not self._options.quiet:
            say(
                f"{request.label}: the text reached the model's context of "
                f"{result.context_reached} tokens: what follows is less reliable"
            )

    def _write_result(self, request: Request, result: Result, streamer: Streamer | None) -> None:
        if streamer is not None:
            streamer.finish(result.text)
            return
        data = result_object(
            result,
            files=request.names,
            pipeline=self._pipeline,
            seed=self._options.seed,
        )
        self._writer.result(request.label, result.text, data)

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
            self._writer.result(request.label, text, {})

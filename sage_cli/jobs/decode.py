"""From requests to results: load the models once, decode each request, write its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Unpack

from sage_cli import signals
from sage_cli.console import (
    Progress,
    complain,
    say,
    set_verbosity,
    with_progress,
)
from sage_cli.exit_codes import ExitCode, code_of, worst
from sage_cli.jobs.batching import batch_size, in_order
from sage_cli.jobs.media import MediaOpener
from sage_cli.jobs.request import Request, refusals
from sage_cli.jobs.results import OutputArguments, Results
from sage_cli.options.check import check
from sage_cli.options.shared import RunOptions
from sage_cli.render.outputs import AtomicFile, OutputFile, opened
from sage_cli.render.streamer import Streamer
from sage_cli.sinks.json_output import Json
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
    from sage_core.engine.results import Stats
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


class Job(Results):
    """Decodes requests one after another, or several at once; without a pipeline it can only
    `refuse`. Further arguments as for `Results`.
    """

    def __init__(
        self,
        options: RunOptions,
        pipeline: Pipeline | None,
        file: OutputFile | None,
        **outputs: Unpack[OutputArguments],
    ) -> None:
        super().__init__(options, file, **outputs)
        self._media: Mapping[str, Mapping[str, Any]] = {}
        self._loaded = pipeline
        self._again: list[Request] = []

    @property
    def _pipeline(self) -> Pipeline:
        assert self._loaded is not None, "a job without a pipeline can only refuse"
        return self._loaded

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

    def _batched(self, requests: Sequence[Request], size: int) -> None:
        """Decode requests of one file each, ``size`` at once."""

        def finish(outcome: Outcome[Result]) -> None:
            request = requests[outcome.number]

            def write() -> None:
                result = outcome.get()
                self._finish(request, result, None)
                self._print_stats(request, result.stats, result.lossy)

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

    def decode(self, request: Request, start: Callable[[], Stream], *also: Watcher) -> Result:
        """Decode the stream that ``start`` opens, with live view or streaming, and write it."""
        from sage_cli.render.frame import History

        saved: SavedView | None = None
        streamer = self.streamer()
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
                self.show_partial(request, stream.text, streamer, signals.raised(error))
            raise
        finally:
            if saved is not None:
                self._save(saved)
        self._print_stats(request, result.stats, result.lossy)
        return result

    def _print_stats(self, request: Request, stats: Stats, lossy: str | None) -> None:
        if self._options.stats:
            from sage_cli.render.stats import print_stats

            print_stats(stats, request.label, lossy)

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

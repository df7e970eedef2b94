"""Where the records of a run go: an output, further sinks, messages, the exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypedDict

from sage_cli import signals
from sage_cli.console import complain, display_name, is_terminal, say, wants_live
from sage_cli.exit_codes import ExitCode, code_of, worst
from sage_cli.jobs.request import Request
from sage_cli.options.shared import RunOptions
from sage_cli.render.jsonout import failure_object
from sage_cli.render.outputs import OutputFile, stdout_writer
from sage_cli.render.streamer import Streamer
from sage_cli.sinks.json_output import Json
from sage_cli.sinks.sink import Record, Sink
from sage_cli.sinks.text import PlainText
from sage_core.errors import InputError

__all__ = ["OutputArguments", "Results"]


class OutputArguments(TypedDict, total=False):
    """Arguments of `Results` by name."""

    several: bool
    headed: bool
    sinks: Sequence[Sink]
    printed: bool
    writer: Callable[[Callable[[str], None], bool], Sink] | None


class Results:
    """Writes records and errors of requests in one place; without a ``file``, to standard output.

    ``several`` results make a JSON list, and with ``headed`` texts are headed by their files'
    names. ``sinks`` get every record besides; with them, and no output asked for, nothing is
    printed if not ``printed``. ``writer`` makes what prints in place of texts.
    """

    def __init__(
        self,
        options: RunOptions,
        file: OutputFile | None,
        *,
        several: bool = False,
        headed: bool = True,
        sinks: Sequence[Sink] = (),
        printed: bool = True,
        writer: Callable[[Callable[[str], None], bool], Sink] | None = None,
    ) -> None:
        self._options = options
        self._file = file
        self._several = several
        self._sinks = sinks
        self._write = file.write if file is not None else stdout_writer()
        self._to_terminal = file is None and printed and is_terminal(sys.stdout)
        self._live = wants_live(options.live, quiet=options.quiet or not printed)
        self.codes: list[ExitCode] = []
        self._writer: Sink | None = None
        if options.json or options.jsonl:
            self._writer = Json(self._write, lines=options.jsonl, several=several)
        elif printed and writer is not None:
            self._writer = writer(self._write, self._to_terminal)
        elif printed:
            self._writer = PlainText(
                self._write, several=several and headed, for_terminal=self._to_terminal
            )

    def refuse(self, requests: Sequence[Request], errors: Sequence[Exception]) -> ExitCode:
        """Report the error of each request; returns the worst of their exit codes."""
        with self.results():
            pairs = zip(requests, errors, strict=True)
            self.codes += [self.fail(request, error) for request, error in pairs]
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
        return self._live or self.streamer() is not None

    @contextmanager
    def results(self) -> Iterator[None]:
        """Open while results are made; what is finished is kept, whatever ends the run."""
        with signals.raised_inside():
            try:
                yield
                for sink in self.all_sinks():
                    sink.close()
                if self._file is not None and not self._all_failed():
                    self._file.commit()
                for sink in self.all_sinks():
                    sink.commit()
            finally:
                self._keep_finished()

    def _all_failed(self) -> bool:
        """Whether there is not one text: an older file is not replaced by an empty one."""
        return all(self.codes) and not (self._options.json or self._options.jsonl)

    def _keep_finished(self) -> None:
        """After a failed run: finished results are printed, or left beside --output."""
        for sink in self.all_sinks():
            with suppress(OSError):
                sink.close()
        left = self._file.abandon() if self._file is not None else None
        if left is not None:
            say(f"the finished results are in {display_name(str(left))}")

    def all_sinks(self) -> Sequence[Sink]:
        return self._sinks if self._writer is None else [self._writer, *self._sinks]

    def fail(self, request: Request, error: Exception) -> ExitCode:
        """Report that there is no result, and why; returns its exit code."""
        for one in (request, *request.copies):
            record = failure_object(error, files=one.names, key=one.key)
            for sink in self.all_sinks():
                sink.failure(one.label, record)
        complain(error, name=request.label, verbose=self._options.verbose)
        return code_of(error)

    def streamer(self) -> Streamer | None:
        """For text on a terminal without the live view; not one that may be cut afterwards."""
        if self._options.edits_text:
            return None
        if self._to_terminal and not self._live and isinstance(self._writer, PlainText):
            return Streamer(self._write)
        return None

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

    def show_partial(
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

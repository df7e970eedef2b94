"""The loop of ``sage chat``: a line is a question or a command; caches are kept between turns."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

from sage_cli import signals
from sage_cli.console import complain, is_terminal, say, set_verbosity
from sage_cli.exit_codes import ExitCode, code_of, worst
from sage_cli.jobs.decode import Job, load
from sage_cli.jobs.inputs import STDIN, Source
from sage_cli.jobs.media import MediaOpener
from sage_cli.jobs.request import Request
from sage_cli.options.check import check
from sage_cli.options.shared import RunOptions
from sage_cli.render.outputs import AtomicFile, opened
from sage_cli.streams import OutputError
from sage_core.errors import OptionError

if TYPE_CHECKING:
    from sage_core import Result, Stream
    from sage_core.conversation import Conversation
    from sage_core.trees.steps import Step

__all__ = ["Lines", "run"]

HELP = """\
/add FILE...  add images or videos to the next question
/reset        drop the questions and answers, keep the files
/stats        speed and acceptance of the last answer
/help         this list
/quit         end (or Ctrl-D)
Ctrl-C stops an answer; the part that was written stays in the conversation."""


class Lines:
    """Lines of standard input, with a prompt on a terminal."""

    def __init__(self) -> None:
        with suppress(AttributeError):
            # A byte that is no UTF-8 costs its own question, not all of them.
            sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
        self.typed = is_terminal(sys.stdin)
        self._both = self.typed and is_terminal(sys.stdout)
        if self._both:
            with suppress(ImportError):  # line editing and history
                import readline  # noqa: F401

    def __iter__(self) -> Iterator[str]:
        while True:
            try:
                line = self._next()
            except KeyboardInterrupt as error:
                if not self.typed or not signals.is_ctrl_c(error):
                    raise
                signals.continued()
                print(file=sys.stderr)
                say("Ctrl-D or /quit ends")
                continue
            except EOFError:
                if self.typed:
                    print(file=sys.stderr)
                return
            yield line.strip()

    def _next(self) -> str:
        """The next line.

        Raises:
            EOFError: there is none.
        """
        if self._both:
            return input("> ")
        if self.typed:
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line


def run(sources: tuple[Source, ...], options: RunOptions, lines: Lines) -> ExitCode:
    """Load the models and answer the lines until they end.

    Raises:
        SageError: an option, a file or a model that cannot be used.
    """
    set_verbosity(options.verbose)
    with MediaOpener(sources, options) as opener:
        check(options, several=True, inputs=[STDIN, *(source.name for source in sources)])
        if (error := Request(sources, None).refusal(opener.worker)) is not None:
            raise error
        with opened(options.output, AtomicFile) as file:
            pipeline = load(options, opener)
            job = Job(options, pipeline, file, several=True, headed=False)
            files = [source.open() for source in sources]
            conversation = pipeline.chat(files, **options.decoding())
            return _ChatLoop(job, conversation, sources, lines, options).run()


class _ChatLoop:
    """Asks the conversation what each line says, until the lines end."""

    def __init__(
        self,
        job: Job,
        conversation: Conversation,
        sources: tuple[Source, ...],
        lines: Lines,
        options: RunOptions,
    ) -> None:
        self._job = job
        self._conversation = conversation
        self._sources = sources
        self._lines = lines
        self._options = options
        self._last: Result | None = None
        self._notes: set[str] = set()
        self._commands: dict[str, Callable[[str], None]] = {
            "/add": self._add,
            "/reset": self._reset,
            "/stats": self._stats,
            "/help": self._help,
        }

    def run(self) -> ExitCode:
        """All lines; returns 0 on a terminal, else the worst of their exit codes."""
        if self._lines.typed:
            self._say("type a question; /help lists the commands, Ctrl-D ends")
        with self._job.results():
            for line in self._lines:
                if line == "/quit":
                    break
                if line:
                    self._job.codes.append(self._line(line))
        return ExitCode.OK if self._lines.typed else worst(self._job.codes)

    def _say(self, message: str) -> None:
        if not self._options.quiet:
            say(message)

    def _line(self, line: str) -> ExitCode:
        """One command or question; an error is reported, and the conversation continues."""
        name, _, rest = line.partition(" ")
        try:
            if line.startswith("/"):
                command = self._commands.get(name)
                if command is None:
                    raise OptionError(f"unknown command {name}: /help lists them")
                command(rest.strip())
                return ExitCode.OK
        except (BrokenPipeError, OutputError):
            raise
        except Exception as error:
            if signals.raised(error):
                raise
            complain(error, verbose=self._options.verbose)
            return code_of(error)
        return self._question(line)

    def _question(self, question: str) -> ExitCode:
        request = Request(self._sources, question)
        with _stoppable() as stopped:

            def watch(step: Step, stream: Stream) -> None:
                if step.is_prefill:
                    self._note()
                if stopped():
                    stream.close()

            try:
                self._last = self._job.decode(
                    request, lambda: self._conversation.stream(question), watch
                )
            except (BrokenPipeError, OutputError):
                raise
            except KeyboardInterrupt as error:
                if not self._lines.typed or not signals.is_ctrl_c(error):
                    raise
                say("stopped at once: the next question processes the conversation again")
                return ExitCode.INTERRUPTED
            except Exception as error:
                if signals.raised(error):
                    raise
                return self._job.fail(request, error)
            if stopped():
                say("stopped")
                if not self._lines.typed:
                    raise KeyboardInterrupt
        return ExitCode.OK

    def _note(self) -> None:
        """Say why earlier turns are processed again, each reason once."""
        note = self._conversation.note
        if note and note not in self._notes:
            self._notes.add(note)
            self._say(note)

    def _add(self, rest: str) -> None:
        try:
            names = shlex.split(rest)
        except ValueError as error:
            raise OptionError(f"/add: {str(error).lower()}: close the quotes") from error
        if not names or STDIN in names:
            raise OptionError("/add takes the names of files: /add FILE...")
        sources = tuple(Source(name) for name in names)
        self._conversation.add([source.open() for source in sources])
        self._sources += sources
        self._notes.clear()
        shown = ", ".join(source.label for source in sources)
        self._say(f"{shown}: added to the next question")

    def _reset(self, rest: str) -> None:
        self._conversation.reset()
        self._say("questions and answers dropped, files kept")

    def _stats(self, rest: str) -> None:
        from sage_cli.render.stats import print_stats

        if self._last is None:
            raise OptionError("/stats: nothing has been answered yet")
        print_stats(self._last.stats, self._last.prompt, self._last.lossy)

    def _help(self, rest: str) -> None:
        print(HELP, file=sys.stderr)


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """While open, the first Ctrl-C only sets the flag that is yielded; the second interrupts.

    An answer that ends between two steps leaves caches that the next turn can reuse.
    """
    pressed = 0

    def press(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            raise KeyboardInterrupt

    if current_thread() is not main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed > 0
    finally:
        signal.signal(signal.SIGINT, before)

"""The ``sage`` command: its sub-commands, and the one place where errors become exit codes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sage_cli import version
from sage_cli.commands.ask import ask
from sage_cli.commands.bench import bench
from sage_cli.commands.caption import caption
from sage_cli.commands.chat import chat
from sage_cli.commands.distill import distill
from sage_cli.commands.doctor import doctor
from sage_cli.commands.draft_vocab import draft_vocab
from sage_cli.commands.models import models
from sage_cli.console import complain, say
from sage_cli.exit_codes import ExitCode, code_of
from sage_cli.options.shared import VERBOSE

__all__ = ["app", "main"]


HELP = (
    "Captions and answers about images and video, from open vision-language models.\n\n"
    "A small draft model proposes a tree of next words and the target model checks the whole tree "
    "in one pass: the same text as without the draft, sooner."
)


class Commands(TyperGroup):
    """The sub-commands, with errors made into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            code = super().invoke(ctx)
        except (typer.Exit, typer.Abort, SystemExit):
            raise
        except BrokenPipeError:
            _let_go_of_stdout()
            code = ExitCode.OK
        except KeyboardInterrupt:
            say("interrupted")
            code = ExitCode.INTERRUPTED
        except Exception as error:
            # Click's own errors know their exit code and are shown by Typer.
            if hasattr(error, "exit_code"):
                raise
            complain(error, verbose=ctx.meta.get(VERBOSE, False))
            code = code_of(error)
        raise typer.Exit(int(code or 0))


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help=HELP,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (caption, ask, chat, bench, distill, draft_vocab, models, doctor):
    app.command()(command)


def _print_version(value: bool) -> None:
    if value:
        print(f"sage {version()}")
        raise typer.Exit


@app.callback()
def sage(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """The options of ``sage`` itself."""


def _let_go_of_stdout() -> None:
    """Nobody reads standard output any more: what is left in its buffer goes nowhere, quietly."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _replace_closed_streams() -> None:
    """Stand-ins for streams that were closed before the start (``2>&-``).

    Opening them first also takes their descriptors, which a file opened later would get, and with
    it whatever a library writes to standard error.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115, open to the end


def _code_of(ending: SystemExit) -> Any:
    """The exit code; where rich or Typer ends because nobody reads any more, they say 1.

    That is no failure, unless it was a message on a failure that nobody reads. Typer also catches
    Ctrl-C before a command begins, and says nothing.
    """
    if isinstance(getattr(ending.__context__, "__cause__", None), KeyboardInterrupt):
        say("interrupted")
    if not isinstance(ending.__context__, BrokenPipeError):
        return ending.code
    _let_go_of_stdout()
    error = ending.__context__.__context__
    return getattr(error, "exit_code", ExitCode.OK)


def _terminated(number: int, frame: object) -> None:
    """End by way of the clean-ups, which restore the screen."""
    raise SystemExit(128 + number)


def main() -> None:
    """Entry point of the ``sage`` command; exits with one of `ExitCode`."""
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A locale that lacks a character is no reason to lose the text around it.
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app(prog_name="sage")
        code: Any = ExitCode.OK
    except SystemExit as ending:
        code = _code_of(ending)
    except KeyboardInterrupt:
        say("interrupted")
        code = ExitCode.INTERRUPTED
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go_of_stdout()
    sys.exit(code)

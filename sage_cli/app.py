"""The ``sage`` command: its subcommands, and the one place where errors become exit codes."""

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
    "Speculative decoding: a draft proposes a tree of next tokens, and the target model verifies "
    "the whole tree in one forward pass. The text is exactly the target's own, and comes faster."
)


class Commands(TyperGroup):
    """The subcommands; an error becomes one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            code = super().invoke(ctx)
        except (typer.Exit, typer.Abort, SystemExit):
            raise
        except BrokenPipeError:
            _discard_stdout()
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


def _discard_stdout() -> None:
    """Standard output is closed: discard what is left in its buffer."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _replace_closed_streams() -> None:
    """Open the null device for streams that were closed before the start (``2>&-``).

    This also takes their descriptors: else the next file opened would get one of them, and with it
    everything that a library writes to standard error.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115, open to the end


def _code_of(ending: SystemExit) -> Any:
    """The exit code. Rich and Typer exit with 1 on a closed pipe, which is not a failure unless
    the output was an error message; and Typer is silent on Ctrl-C before a command begins.
    """
    if isinstance(getattr(ending.__context__, "__cause__", None), KeyboardInterrupt):
        say("interrupted")
    if not isinstance(ending.__context__, BrokenPipeError):
        return ending.code
    _discard_stdout()
    error = ending.__context__.__context__
    return getattr(error, "exit_code", ExitCode.OK)


def _terminated(number: int, frame: object) -> None:
    """Exit through the cleanup code, which restores the screen."""
    raise SystemExit(128 + number)


def main() -> None:
    """Entry point of the ``sage`` command; exits with one of `ExitCode`."""
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A character that the locale lacks is replaced; the text around it is kept.
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
        _discard_stdout()
    sys.exit(code)

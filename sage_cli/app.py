"""The ``sage`` command: its subcommands, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sage_cli import signals, version
from sage_cli.brief_help import BriefHelp
from sage_cli.commands.ask import ask
from sage_cli.commands.bench import bench
from sage_cli.commands.caption import caption
from sage_cli.commands.chat import chat
from sage_cli.commands.distill import distill
from sage_cli.commands.doctor import doctor
from sage_cli.commands.draft_vocab import draft_vocab
from sage_cli.commands.models import models
from sage_cli.commands.presets import presets
from sage_cli.console import complain, say
from sage_cli.exit_codes import ExitCode, code_of
from sage_cli.options.shared import VERBOSE
from sage_cli.streams import replace_streams

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
        except KeyboardInterrupt as error:
            say("interrupted")
            code = code_of(error)
        except Exception as error:
            if number := signals.interrupted():  # a library failed because of it
                say("interrupted")
                code = 128 + number
            elif isinstance(error, BrokenPipeError):
                code = ExitCode.OK
            elif hasattr(error, "exit_code"):
                raise  # Click's own errors know their exit code and are shown by Typer
            else:
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
for command in (caption, ask, chat, bench, distill, draft_vocab, models, presets, doctor):
    app.command(cls=BriefHelp)(command)


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


def _code_of(ending: SystemExit) -> Any:
    """The exit code. Rich and Typer exit with 1 on a closed pipe, which is not a failure; and
    Typer is silent on Ctrl-C before a command begins.
    """
    if isinstance(getattr(ending.__context__, "__cause__", None), KeyboardInterrupt):
        say("interrupted")
    return ExitCode.OK if isinstance(ending.__context__, BrokenPipeError) else ending.code


def _ended() -> Any:
    """Run the command; returns its exit code."""
    try:
        app(prog_name="sage")
    except SystemExit as ending:
        return _code_of(ending)
    except KeyboardInterrupt as error:
        say("interrupted")
        return code_of(error)
    except OSError as error:  # standard output, while Typer prints to it
        complain(error)
        return code_of(error)
    return ExitCode.OK


def main() -> None:
    """Entry point of the ``sage`` command; exits with one of `ExitCode`."""
    replace_streams()
    signals.install()
    code = _ended()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        complain(error)
        code = code or ExitCode.OTHER
    if number := signals.interrupted():
        with suppress(OSError):
            sys.stderr.flush()
        # Without the interpreter's own end: threads that were interrupted write to the terminal
        # then, and may not end.
        os._exit(128 + number)
    sys.exit(code)

"""Standard error: messages, loading progress, terminals, and silence for chatty libraries."""

from __future__ import annotations

import gc
import logging
import os
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "clean",
    "complain",
    "display_name",
    "error_console",
    "is_terminal",
    "loading_progress",
    "say",
    "set_verbosity",
    "wants_live",
]


def is_terminal(stream: TextIO) -> bool:
    """Whether a person may be looking at ``stream``."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # closed, or not a real file
        return False


def clean(text: str, keep: str = "\n\t") -> str:
    """``text`` without control characters, which could rewrite a terminal's screen or title."""
    if text.isprintable():
        return text
    return "".join(
        c if c in keep or unicodedata.category(c) != "Cc" else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


def display_name(name: str) -> str:
    """A file name on one printable line: control characters and odd bytes escaped."""
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def say(message: str) -> None:
    """One line to standard error; a closed standard error is no reason to fail."""
    with suppress(BrokenPipeError, ValueError):
        print(f"sage: {clean(message, keep='')}", file=sys.stderr, flush=True)


def complain(error: BaseException, *, name: str | None = None, verbose: bool = False) -> None:
    """Say what went wrong in one line, with the file it concerns; the traceback if verbose."""
    from sage_cli.exit_codes import ExitCode, code_of
    from sage_core.errors import SageError

    if verbose:
        traceback.print_exception(error)
    message = " ".join(str(error).split())
    if code_of(error) is ExitCode.MEMORY and not isinstance(error, SageError):
        message = f"out of memory: {message}" if message else "out of memory"
    elif isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif code_of(error) is ExitCode.OTHER:
        hint = "" if verbose else " (--verbose shows the traceback)"
        message = f"internal error: {type(error).__name__}: {message}{hint}"
    if name is not None and name not in message:
        message = f"{name}: {message}"
    say(message)


def error_console(file: TextIO | None = None, **options: Any) -> Console:
    """Rich's console on standard error. Where nobody reads that any more, it falls silent.

    Rich's own ends the program then and closes standard output, whose results may be wanted.
    """
    from rich.console import Console

    class Silent(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True

    return Silent(file=file or sys.stderr, **options)


def set_verbosity(verbose: bool) -> None:
    """Keep warnings and progress bars of the libraries off standard error, or let all through."""
    if verbose:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("sage_core").setLevel(logging.DEBUG)
        return
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for library in ("transformers", "huggingface_hub", "torch", "accelerate", "PIL"):
        logging.getLogger(library).setLevel(logging.ERROR)


@contextmanager
def not_collecting() -> Iterator[None]:
    """Leave Python's collector off; what was made the first time stays out of its sight ever after.

    Importing torch and transformers makes objects by the hundred thousand, and nearly all stay:
    looking through them again and again takes a good part of the time until a model is loaded.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if not gc.get_freeze_count():  # later there may be models among it that are let go of
                gc.freeze()
            gc.enable()


@contextmanager
def loading_progress(enabled: bool) -> Iterator[Callable[[str, float], None]]:
    """A progress bar on standard error that vanishes when done; yields ``report(what, share)``.

    Around what imports the libraries and reads the weights: see `not_collecting`.
    """
    with not_collecting(), _progress_bar(enabled) as report:
        yield report


@contextmanager
def _progress_bar(enabled: bool) -> Iterator[Callable[[str, float], None]]:
    if not enabled:
        yield lambda message, fraction: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = error_console()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("loading", total=1.0)

        def report(message: str, fraction: float) -> None:
            progress.update(task, description=clean(message, keep=""), completed=fraction)

        yield report


def wants_live(asked: bool | None, *, quiet: bool) -> bool:
    """``--live`` if given, else when both streams are terminals and nobody asked for quiet."""
    able = is_terminal(sys.stderr) and os.environ.get("TERM", "") not in ("", "dumb")
    if asked is None:
        return able and is_terminal(sys.stdout) and not quiet
    if asked and not able and not quiet:
        say("--live: standard error is no terminal that can show the view")
    return asked and able

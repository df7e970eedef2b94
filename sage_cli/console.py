"""Standard error: messages, loading progress, terminals, and the libraries' log levels."""

from __future__ import annotations

import gc
import logging
import os
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar

from sage_cli import signals
from sage_cli.exit_codes import ExitCode, code_of
from sage_core.errors import SageError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Progress",
    "clean",
    "complain",
    "counted",
    "display_name",
    "error_console",
    "is_terminal",
    "loading_progress",
    "say",
    "set_verbosity",
    "wants_live",
    "with_progress",
]


Progress = Callable[[str, float], None]
"""Takes a message and the share done, from 0 to 1."""


class _Noted(Protocol):
    @property
    def note(self) -> str: ...


Loaded = TypeVar("Loaded", bound=_Noted)


def is_terminal(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # closed, or not a real file
        return False


def clean(text: str, keep: str = "\n\t") -> str:
    """``text`` without control characters, which could change a terminal's screen or title."""
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


def counted(numbers: Mapping[str, int]) -> str:
    """Numbers of things by what they are, as in ``3 hidden files, 1 hidden folders``."""
    return ", ".join(f"{number} {what}" for what, number in numbers.items())


def say(message: str) -> None:
    """Print one line to standard error; do nothing if that is closed."""
    with suppress(OSError, ValueError):
        print(f"sage: {clean(message, keep='')}", file=sys.stderr, flush=True)


def complain(error: BaseException, *, name: str | None = None, verbose: bool = False) -> None:
    """Print an error in one line, with the file it concerns; the traceback if verbose."""
    if verbose:
        traceback.print_exception(error)
    # A message that has the name has it unescaped: it is escaped here, and not put in front again.
    escaped = display_name(str(error))
    named = name is not None and name in escaped
    message = escaped if named else " ".join(str(error).split())
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
    """Rich's console on standard error."""
    from rich.console import Console

    return Console(file=file or sys.stderr, **options)


def set_verbosity(verbose: bool) -> None:
    """Switch the libraries' warnings and progress bars off, or all messages on."""
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
    """Switch the garbage collector off; what is made the first time is frozen (`gc.freeze`).

    Importing torch and transformers makes hundreds of thousands of objects that nearly all stay;
    scanning them repeatedly takes a good part of the time to load a model.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if not gc.get_freeze_count():  # later objects may be models that are released
                gc.freeze()
            gc.enable()


@contextmanager
def loading_progress(enabled: bool) -> Iterator[Progress]:
    """A progress bar on standard error, removed when done; yields ``report(message, share)``.

    To be used around imports of the libraries and loading of weights: see `not_collecting`.
    """
    with not_collecting(), _progress_bar(enabled) as report:
        yield report


def with_progress(load: Callable[[Progress], Loaded], *, quiet: bool) -> Loaded:
    """What ``load(progress)`` returns, with progress on a terminal; prints its note."""
    with loading_progress(is_terminal(sys.stderr) and not quiet) as progress:
        # The imports of ``load`` take seconds.
        progress("starting", 0.0)
        loaded = load(progress)
    if loaded.note and not quiet:
        say(loaded.note)
    return loaded


@contextmanager
def _progress_bar(enabled: bool) -> Iterator[Progress]:
    if not enabled:
        yield lambda message, fraction: None
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    console = error_console()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    # The signal ends the program at once while models are loaded: the bar goes, the cursor comes.
    with (
        signals.at_once(lambda: os.write(2, b"\r\x1b[2K\x1b[?25h")),
        Bar(*columns, console=console, transient=True) as bar,
    ):
        task = bar.add_task("loading", total=1.0)

        def report(message: str, fraction: float) -> None:
            bar.update(task, description=clean(message, keep=""), completed=fraction)

        yield report


def wants_live(asked: bool | None, *, quiet: bool) -> bool:
    """``--live`` if given, else whether both streams are terminals and ``--quiet`` is not given."""
    able = is_terminal(sys.stderr) and os.environ.get("TERM", "") not in ("", "dumb")
    if asked is None:
        return able and is_terminal(sys.stdout) and not quiet
    if asked and not able and not quiet:
        say("--live: standard error is not a terminal that can show the view")
    return asked and able

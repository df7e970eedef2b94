"""Run a function in a child process with limits of time and memory, and report how it ended."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from sage_core.errors import SageError

How = Literal["done", "refused", "traceback", "killed", "hung"]


@dataclass(frozen=True)
class Outcome:
    """How a child ended: ``done``, ``refused`` with one of sage's own errors, or a fault."""

    how: How
    says: Any
    """The returned value, the error's line, the traceback or the signal."""
    seconds: float
    peak: int
    """Peak memory in bytes."""
    read: int
    """Bytes read from files, 0 where the system does not count them."""


def tried(
    function: Callable[..., Any], *args: Any, seconds: float = 10.0, memory: int | None = None
) -> Outcome:
    """Call ``function`` in a forked child. ``memory`` limits its address space, in bytes.

    The parent must not have decoded anything before: threads do not survive a fork.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(theirs, memory, function, args))
    started = time.perf_counter()
    child.start()
    theirs.close()
    try:
        answer = ours.recv() if ours.poll(seconds) else None
    except EOFError:  # it ended before it could send anything
        answer = None
        child.join(seconds)
    took = time.perf_counter() - started
    if answer is not None:
        child.join(seconds)
        return Outcome(answer[0], answer[1], took, answer[2], answer[3])
    if child.exitcode is None:
        child.kill()
        child.join()
        return Outcome("hung", f"more than {seconds:g} s", took, 0, 0)
    return Outcome("killed", _signal(child.exitcode), took, 0, 0)


def _run(pipe: Connection, memory: int | None, function: Callable[..., Any], args: Any) -> None:
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    how: How = "done"
    before = _read()
    try:
        says = function(*args)
    except SageError as error:
        how, says = "refused", str(error)
    except BaseException:
        how, says = "traceback", traceback.format_exc()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe.send((how, says, peak, _read() - before))


def _read() -> int:
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return int(lines[0].removeprefix("rchar: "))


def _signal(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"

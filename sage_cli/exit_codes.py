"""The map from errors to exit codes."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from enum import IntEnum

from sage_core.errors import kind_of

__all__ = ["MEANING", "ExitCode", "code_of", "code_of_kind", "worst"]


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    OTHER = 1
    USAGE = 2
    INPUT = 3
    MODEL = 4
    MEMORY = 5
    HANGUP = 129
    INTERRUPTED = 130
    TERMINATED = 143


MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "everything was done (also if a pipe was closed early)",
    ExitCode.OTHER: "any other error: an output that cannot be written, or a bug in sage (see "
    "`--verbose`)",
    ExitCode.USAGE: "wrong usage: an unknown option, value, setting or policy",
    ExitCode.INPUT: "an input that cannot be read",
    ExitCode.MODEL: "a model that cannot be found, loaded or paired",
    ExitCode.MEMORY: "the device or the host ran out of memory",
    ExitCode.HANGUP: "interrupted by SIGHUP: the terminal was closed",
    ExitCode.INTERRUPTED: "interrupted by SIGINT (Ctrl-C)",
    ExitCode.TERMINATED: "interrupted by SIGTERM (`kill`, `timeout`)",
}

_SEVERITY = (
    ExitCode.OK,
    ExitCode.USAGE,
    ExitCode.INPUT,
    ExitCode.MODEL,
    ExitCode.MEMORY,
    ExitCode.OTHER,
    ExitCode.INTERRUPTED,
    ExitCode.HANGUP,
    ExitCode.TERMINATED,
)


def code_of(error: BaseException) -> ExitCode:
    """The exit code of ``error``."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode(128 + getattr(error, "number", signal.SIGINT))
    return code_of_kind(kind_of(error))


def code_of_kind(kind: str) -> ExitCode:
    """The exit code of errors of a kind, see `sage_core.errors.kind_of`."""
    return ExitCode[kind.upper()]


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """The most severe of several codes, 0 for none."""
    return max(codes, key=_SEVERITY.index, default=ExitCode.OK)

"""The fuzz benchmark detects tracebacks, killed processes, hangs and excessive memory."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from benchmarks.child import tried
from benchmarks.media_fuzz import MEMORY, fault
from sage_core.errors import InputError


def fine() -> str:
    return "Picture"


def refused() -> None:
    raise InputError("FILE: is empty")


def rambling() -> None:
    raise InputError("FILE: is\nempty")


def broken() -> None:
    raise ValueError("a bug")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hung() -> None:
    time.sleep(60)


def greedy() -> int:
    return len(bytearray(2**30))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (fine, None),
        (refused, None),
        (rambling, "not one clear line"),
        (broken, "ValueError: a bug"),
        (killed, "SIGKILL"),
        (hung, "hung"),
        (greedy, "MemoryError"),
    ],
)
def test_every_kind_of_fault_is_reported(function: Any, says: str | None) -> None:
    outcome = tried(function, seconds=1.0 if function is hung else 30.0, memory=_room())
    found = fault(outcome)
    assert (found is None) == (says is None)
    assert says is None or says in str(found)


def _room() -> int:
    """Half a gigabyte of address space more than this process uses now."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + 2**29


def test_memory_is_measured() -> None:
    outcome = tried(lambda: len(b"x" * 2**27), seconds=30.0)
    assert outcome.how == "done"
    assert 2**27 <= outcome.peak < MEMORY

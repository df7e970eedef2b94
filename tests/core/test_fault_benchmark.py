"""The benchmarks of damaged files see tracebacks, crashes, hangs, memory and stray lines."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.child import tried
from benchmarks.faults.__main__ import MEMORY, SECONDS, File
from benchmarks.faults.metered import Ending, Opener
from sage_core.errors import InputError
from tests.core.media_files import card, encoded


def fine() -> str:
    return "Picture"


def refused() -> None:
    raise InputError("FILE: is empty")


def broken() -> None:
    raise ValueError("a bug")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hung() -> None:
    time.sleep(60)


def greedy() -> int:
    return len(bytearray(2**30))


@pytest.mark.parametrize(
    ("function", "how", "says"),
    [
        (fine, "done", "Picture"),
        (refused, "refused", "FILE: is empty"),
        (broken, "traceback", "ValueError: a bug"),
        (killed, "killed", "SIGKILL"),
        (hung, "hung", "more than 1 s"),
        (greedy, "traceback", "MemoryError"),
    ],
)
def test_how_a_child_ended(function: Any, how: str, says: str) -> None:
    outcome = tried(function, seconds=1.0 if function is hung else 30.0, memory=_room())
    assert outcome.how == how
    assert says in outcome.says


def _room() -> int:
    """Half a gigabyte of address space more than this process uses now."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + 2**29


def test_memory_is_measured() -> None:
    outcome = tried(lambda: len(b"x" * 2**27), seconds=30.0)
    assert outcome.how == "done"
    assert outcome.peak >= 2**27


@pytest.mark.parametrize(
    ("ending", "fault"),
    [
        (Ending("opened", "Picture", "", 1.0, 2**20), ""),
        (Ending("refused", "FILE: is empty", "", 1.0, 2**20), ""),
        (Ending("refused", "FILE: is\nempty", "", 1.0, 2**20), "not one clear line"),
        (Ending("traceback", "ValueError: a bug", "", 1.0, 2**20), "traceback: ValueError: a bug"),
        (Ending("crash", "exit code -9", "", 1.0, 2**20), "crash: exit code -9"),
        (Ending("opened", "Picture", "TIFFReadDirectory", 1.0, 2**20), "standard error: TIFFRead"),
        (Ending("opened", "Picture", "", 1.0, MEMORY + 1), "GiB of memory"),
        (Ending("opened", "Picture", "", SECONDS + 1, 2**20), "seconds"),
    ],
)
def test_what_counts_as_a_fault(ending: Ending, fault: str) -> None:
    found = File("mutated", "a.png", "flip", 9, ending).fault
    assert (fault in found) if fault else found == ""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_files_are_opened_in_a_metered_process(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(encoded(card(), "PNG"))
    bad.write_bytes(good.read_bytes()[:40])
    (tmp_path / "stderr").touch()
    opener = Opener(tmp_path, 60.0)
    try:
        ends = [opener.open(path) for path in (good, bad)]
    finally:
        opener.close()
    assert [end.how for end in ends] == ["opened", "refused"]
    assert all(2**20 < end.peak < MEMORY and end.lines == "" for end in ends)

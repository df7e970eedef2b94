"""Processes that crash, leave, raise or are left alone: every task has one result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sage_core.captioning.pool import Pool, Slot
from sage_core.errors import InputError, MemoryExhaustedError, ModelError, OptionError, SageError
from tests.core.pool_fakes import make

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes of a pool need POSIX")


def pool(folder: Path, workers: int = 2, **argument: Any) -> Pool[str, str]:
    return Pool(make, {"folder": str(folder), **argument}, [Slot()] * workers)


def results(pool: Pool[str, str], tasks: list[str]) -> dict[str, str | SageError]:
    found = list(pool.run(tasks))
    assert Counter(task for task, _ in found) == Counter(tasks)
    return dict(found)


@pytest.mark.parametrize(("workers", "width"), [(1, 1), (2, 1), (3, 4)])
def test_every_task_has_its_result(tmp_path, workers, width):
    tasks = [f"task {number}" for number in range(25)]
    found = results(pool(tmp_path, workers, width=width), tasks)
    assert found == {task: f"{task} done" for task in tasks}


def test_no_tasks(tmp_path):
    assert results(pool(tmp_path), []) == {}


ENDS = [
    ("kill", MemoryExhaustedError, "lack of memory"),
    ("abort", InputError, "SIGABRT"),
    ("leave", InputError, "exit code 3"),
]


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize(("task", "kind", "says"), ENDS)
def test_a_task_that_ends_two_processes_fails_and_no_other(tmp_path, task, kind, says, width):
    others = [f"task {number}" for number in range(12)]
    found = results(pool(tmp_path, width=width), [*others[:3], task, *others[3:]])
    error = found.pop(task)
    assert isinstance(error, kind) and says in str(error)
    assert found == {task: f"{task} done" for task in others}


def test_a_task_is_tried_again_once(tmp_path):
    tasks = ["once a", "task", "once b", "once c"]
    assert results(pool(tmp_path), tasks) == {task: f"{task} done" for task in tasks}


def test_what_fails_in_making_is_raised_once(tmp_path):
    with pytest.raises(ModelError, match="no such model"):
        results(pool(tmp_path, load="fails"), ["task"])


def test_processes_that_end_while_loading_are_given_up(tmp_path):
    with pytest.raises(MemoryExhaustedError, match="use fewer"):
        results(pool(tmp_path, load="dies"), ["task"])


def test_one_process_that_cannot_load_leaves_its_work_to_others(tmp_path):
    lines: list[str] = []
    (tmp_path / "loaded").touch()
    found = Pool(
        make,
        {"folder": str(tmp_path), "load": "dies once more"},
        [Slot()],
        notice=lines.append,
    )
    with pytest.raises(ModelError, match="exit code 7"):
        results(found, ["task"])
    assert lines == ["a worker ended before it was of use (exit code 7): going on without it"]
    (tmp_path / "loaded").unlink()
    two = pool(tmp_path, 2, load="dies once more")
    assert results(two, ["task"]) == {"task": "task done"}


def test_a_machine_on_which_every_process_ends_is_given_up(tmp_path):
    with pytest.raises(MemoryExhaustedError):
        list(pool(tmp_path, 1).run(["kill"] * 50))


def test_a_bug_in_a_process_is_raised(tmp_path):
    with pytest.raises(ValueError, match="a bug"):
        results(pool(tmp_path), ["task", "raise"])


def test_each_process_has_its_share(tmp_path):
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    slot = Slot({"SAGE_TEST": "here"}, tuple(cores[:1]))
    found = dict(Pool(make, {}, [slot]).run(["where"]))
    assert found == {"where": f"here {cores[:1]}"}


def pids(folder: Path, number: int) -> list[int]:
    """Of the processes that sleep, as soon as there are ``number``."""
    end = time.monotonic() + 60
    while len(found := list(folder.glob("pid *"))) < number:
        assert time.monotonic() < end, f"{found} only"
        time.sleep(0.01)
    return [int(one.name.split()[1]) for one in found]


def ended(pid: int) -> bool:
    """Waits for it."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_closing_ends_the_processes(tmp_path):
    with closing(pool(tmp_path).run(["sleep", "task"])) as found:
        assert next(found) == ("task", "task done")
        (pid,) = pids(tmp_path, 1)
    assert ended(pid)


PROGRAM = """
import sys
from sage_core.captioning.pool import Pool, Slot
from tests.core.pool_fakes import make
list(Pool(make, {"folder": sys.argv[1]}, [Slot()] * 2).run(["sleep 1", "sleep 2"]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them(tmp_path, number):
    root = Path(__file__).parents[2]
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=root, stderr=subprocess.DEVNULL
    )
    workers = pids(tmp_path, 2)
    program.send_signal(number)
    program.wait()
    assert all(ended(pid) for pid in workers)


def test_a_pool_needs_a_slot():
    with pytest.raises(OptionError):
        Pool(make, {}, [])

"""What the processes of a pool do in the tests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sage_core.captioning.pool import Work
from sage_core.errors import ModelError


def make(argument: dict[str, Any]) -> Work[str, str]:
    if argument.get("load") == "fails":
        raise ModelError("no such model")
    if argument.get("load") == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if argument.get("load") == "dies once more" and not claimed(argument["folder"], "loaded"):
        os._exit(7)

    def run(tasks: Iterator[str]) -> Iterator[tuple[int, str]]:
        held: list[tuple[int, str]] = []
        for place, task in enumerate(tasks):
            held.append((place, task))
            if len(held) == argument.get("width", 1):
                for one in reversed(held):
                    yield one[0], act(one[1], argument)
                held = []
        for one in held:
            yield one[0], act(one[1], argument)

    return Work(run, argument.get("width", 1), "ready")


def act(task: str, argument: dict[str, Any]) -> str:
    """Do what the first word of a task says; its result."""
    word = task.split()[0]
    if word == "kill" or (word == "once" and claimed(argument["folder"], task)):
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "abort":
        os.abort()
    if word == "leave":
        os._exit(3)
    if word == "raise":
        raise ValueError("a bug")
    if word == "sleep":
        Path(argument["folder"], f"pid {os.getpid()}").touch()
        time.sleep(600)
    if word == "where":
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        return f"{os.environ.get('SAGE_TEST')} {cores}"
    return f"{task} done"


def claimed(folder: str, name: str) -> bool:
    """Whether this is the first call with that name, of all processes."""
    try:
        Path(folder, name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

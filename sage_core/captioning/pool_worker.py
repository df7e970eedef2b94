"""What runs in a process of `sage_core.captioning.pool`: tasks come in, results go out."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

__all__ = ["Work", "main"]

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Work(Generic[Task, Result]):
    """What a process does with tasks."""

    run: Callable[[Iterator[Task]], Iterator[tuple[int, Result]]]
    """Takes tasks and yields the result of each in any order, with its place among those taken. The
    tasks end where none is there yet: it is called again for those that come later."""
    width: int = 1
    """Tasks that it works on at once."""
    note: str = ""


def main() -> None:
    """Work until the pool says that all is done; end at once when the pool's process has ended.

    The arguments are the descriptor of the connection and CPUs separated by commas.
    """
    descriptor, cores = int(sys.argv[1]), sys.argv[2]
    os.set_inheritable(descriptor, False)
    if cores and hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # they were taken away meanwhile
            os.sched_setaffinity(0, map(int, cores.split(",")))
    connection = Connection(descriptor)
    try:
        make, argument = connection.recv()
    except EOFError:
        return
    inbox: SimpleQueue[Any] = SimpleQueue()
    Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    try:
        work = make(argument)
        connection.send(("ready", work.width, work.note))
        while (first := inbox.get()) is not None:
            _work(work, first, connection, inbox)
    except Exception as error:
        connection.send(("error", _sendable(error)))
        inbox.get()  # the pool ends this process


def _receive(connection: Connection, inbox: SimpleQueue[Any]) -> None:
    """Keep what comes. A pool that has ended is noticed also during a task."""
    message: Any = ()
    while message is not None:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            os._exit(1)
        inbox.put(message)


def _work(
    work: Work[Any, Any], first: Any, connection: Connection, inbox: SimpleQueue[Any]
) -> None:
    """Work on the first task, and on those that come before all are done."""
    numbers: list[int] = []

    def tasks() -> Iterator[Any]:
        message = first
        while message is not None:
            number, task = message
            numbers.append(number)
            connection.send(("taken", number))
            yield task
            try:
                message = inbox.get_nowait()
            except Empty:
                return
        inbox.put(None)

    done = 0
    for place, result in work.run(tasks()):
        connection.send(("done", numbers[place], result))
        done += 1
    if done < len(numbers):
        raise RuntimeError(f"{len(numbers) - done} tasks have no result")


def _sendable(error: Exception) -> Exception:
    """``error``, or what it says if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error

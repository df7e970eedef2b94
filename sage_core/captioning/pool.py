"""Processes that work on tasks, each on its share of the machine; one that ends is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Generic, TypeVar

from sage_core.captioning.pool_worker import Work
from sage_core.errors import InputError, MemoryExhaustedError, ModelError, OptionError, SageError

__all__ = ["Pool", "Slot", "Work"]

Task = TypeVar("Task")
Result = TypeVar("Result")

_START = (
    "import os, sys; sys.path[:] = sys.argv.pop(1).split(os.pathsep); "
    "from sage_core.captioning.pool_worker import main; main()"
)
_PATIENCE = 10.0
"""Seconds in which a process may end by itself when all is done."""
_LOSSES = 3
"""Processes for each slot that may end without a result in between, before the pool gives up."""


@dataclass(frozen=True)
class Slot:
    """The share of the machine that one process gets."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables beside those of this process."""
    cores: tuple[int, ...] = ()
    """CPUs that it may run on (Linux); without any, all."""


@dataclass(eq=False)
class _Task:
    number: int
    task: Any
    lost: int = 0
    """Processes that ended while they worked on it."""


@dataclass(eq=False)
class _Process:
    slot: Slot
    process: subprocess.Popen[bytes]
    connection: Connection
    width: int = 0
    """Tasks that it works on at once; 0 while it is not ready."""
    held: dict[int, _Task] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    """Numbers of the tasks held that it has begun with."""
    used: bool = False
    """Whether it has begun with any."""
    lone: bool = False
    """Whether its task is one that a process ended at: it gets no other meanwhile."""

    def send(self, message: object) -> None:
        with suppress(OSError):  # it has ended, which the next `wait` tells
            self.connection.send(message)

    def end_word(self, patience: float) -> str:
        """How it ended: the name of a signal, or an exit code."""
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:  # it closed the connection, and lives
            self.process.kill()
            code = self.process.wait()
            return "closed its connection"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class Pool(Generic[Task, Result]):
    """Works on tasks in a process for each slot, which are started by `run` and end with it.

    ``make(argument)``, in each process, returns its `Work`. Both are pickled. A task goes to the
    next process that has room. If a process ends (a crash, a lack of memory), the tasks that it had
    begun with are tried once more, each alone in a process, and another process takes its place.
    The processes end when this one does, however that ends; Ctrl-C in a terminal does not reach
    them. POSIX only.

    Args:
        make: a function of a module.
        argument: what it gets.
        slots: the processes' shares of the machine.
        ready: called with the note of each `Work` as its process is ready.
        notice: called with a line about each process that ends before its time.

    Raises:
        OptionError: the system is not POSIX, or there is no slot.
    """

    def __init__(
        self,
        make: Callable[[Any], Work[Task, Result]],
        argument: Any,
        slots: Sequence[Slot],
        *,
        ready: Callable[[str], object] = lambda note: None,
        notice: Callable[[str], object] = lambda line: None,
    ) -> None:
        if os.name != "posix":
            raise OptionError("worker processes need Linux or macOS: use one process")
        if not slots:
            raise OptionError("a pool needs at least one slot")
        self._start_with = (make, argument)
        self._slots = tuple(slots)
        self._ready = ready
        self._notice = notice
        self._processes: list[_Process] = []
        self._again: deque[_Task] = deque()
        self._queue: deque[_Task] = deque()
        self._losses = 0

    def run(self, tasks: Iterable[Task]) -> Generator[tuple[Task, Result | SageError]]:
        """The result of each task as it is there, in any order.

        A task at which two processes ended has an error as its result. Tasks are taken from the
        iterable as there is room. Closing this ends the processes.

        Raises:
            SageError: from ``make``, in any process, or the processes end before they are ready.
        """
        numbered = (_Task(number, task) for number, task in enumerate(tasks))
        finished = False
        try:
            self._processes = [self._started(slot) for slot in self._slots]
            while True:
                for process in self._processes:
                    self._feed(process, numbered)
                held = any(process.held for process in self._processes)
                if not (held or self._again or self._waiting(numbered)):
                    break
                for process in self._heard():
                    yield from self._read(process)
            finished = True
        finally:
            self._end(finished)

    def _started(self, slot: Slot) -> _Process:
        ours, theirs = Pipe()
        cores = ",".join(map(str, slot.cores))
        arguments = [os.pathsep.join(sys.path), str(theirs.fileno()), cores]
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # it is this process that writes results
                env={**os.environ, **slot.environment},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for this process, which ends them
            )
        started = _Process(slot, process, ours)
        started.send(self._start_with)
        return started

    def _feed(self, process: _Process, numbered: Iterator[_Task]) -> None:
        """Send as many tasks as it has room for.

        It also gets those that it will begin with next, unless other processes could begin earlier.
        """
        if process.width and self._again and not process.held:
            process.lone = True
            self._send(process, self._again.popleft())
        all_widths = sum(other.width or process.width for other in self._processes)
        while not process.lone and len(process.held) < 2 * process.width:
            reserve = 0 if len(process.held) < process.width else all_widths
            if self._waiting(numbered, reserve + 1) <= reserve:
                return
            self._send(process, self._queue.popleft())

    def _waiting(self, numbered: Iterator[_Task], enough: int = 1) -> int:
        """The number of tasks in ``_queue``, which gets ``enough`` of them if there are."""
        self._queue.extend(islice(numbered, max(0, enough - len(self._queue))))
        return len(self._queue)

    @staticmethod
    def _send(process: _Process, task: _Task) -> None:
        process.held[task.number] = task
        process.send((task.number, task.task))

    def _heard(self) -> list[_Process]:
        """The processes that have said something or ended."""
        heard = wait([process.connection for process in self._processes])
        return [process for process in self._processes if process.connection in heard]

    def _read(self, process: _Process) -> Iterator[tuple[Task, Result | SageError]]:
        """Do what a message says."""
        try:
            kind, *values = process.connection.recv()
        except (EOFError, OSError):
            yield from self._lost(process)
            return
        if kind == "error":
            raise values[0]
        if kind == "ready":
            process.width, note = values
            self._ready(note)
        elif kind == "taken":
            process.taken.add(values[0])
            process.used = True
        elif kind == "done":
            number, result = values
            task = process.held.pop(number)
            process.taken.discard(number)
            process.lone = False
            self._losses = 0
            yield task.task, result

    def _lost(self, process: _Process) -> Iterator[tuple[Task, SageError]]:
        """A process has ended: begin another one, and give its tasks to others."""
        how = process.end_word(_PATIENCE)
        process.connection.close()
        self._processes.remove(process)
        self._losses += 1
        returned: list[_Task] = []
        for number, task in sorted(process.held.items()):
            if number not in process.taken:
                returned.append(task)
                continue
            task.lost += 1
            if task.lost > 1:
                yield task.task, _lost_twice(how)
            else:
                self._again.append(task)
        self._queue.extendleft(reversed(returned))
        if not process.used or self._losses > _LOSSES * len(self._slots):
            self._notice(f"a worker ended before it was of use ({how}): going on without it")
            if not self._processes:
                raise _all_lost(how)
        else:
            self._notice(f"a worker ended ({how}): starting another one")
            self._processes.append(self._started(process.slot))

    def _end(self, finished: bool) -> None:
        """End all processes, at once unless all is done."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.send(None)
            if not finished:
                process.process.kill()
        for process in processes:
            process.end_word(_PATIENCE)
            process.connection.close()


def _lost_twice(how: str) -> SageError:
    if how == "SIGKILL":
        return MemoryExhaustedError(
            "the system ended two workers that described it, probably for lack of memory: shrink "
            "it, or use fewer workers"
        )
    return InputError(f"two workers that described it crashed ({how}): convert it, or leave it out")


def _all_lost(how: str) -> SageError:
    if how == "SIGKILL":
        return MemoryExhaustedError(
            "the system ended the workers, probably for lack of memory: use fewer, or a smaller "
            "model"
        )
    return ModelError(f"the workers crashed ({how}): try one process, which may say why")

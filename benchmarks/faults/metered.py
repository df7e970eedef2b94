"""A process that opens files, with the memory of all its processes, its time and its lines."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ENDS = ("opened", "refused", "traceback", "crash", "hung")


@dataclass(frozen=True)
class Ending:
    """What became of one file."""

    how: str
    """One of `ENDS`."""
    says: str
    lines: str
    """What was written to standard error."""
    seconds: float
    peak: int
    """Bytes: the sum of the processes' own peaks while the file was read."""


class Opener:
    """Runs `benchmarks.faults.opener`, and another one after a crash."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._seconds = seconds
        self._errors = folder / "stderr"
        self._process: subprocess.Popen[bytes] | None = None

    def open(self, path: Path) -> Ending:
        process = self._running()
        before = self._errors.stat().st_size
        for number in processes(process.pid):
            with suppress(OSError):  # peaks begin anew
                Path(f"/proc/{number}/clear_refs").write_text("5")
        started = time.perf_counter()
        answer, peak = self._ask(process, path)
        seconds = time.perf_counter() - started
        if answer is None:
            hung = process.poll() is None
            answer = ("hung" if hung else "crash", f"exit code {process.poll()}")
            self.close()
        lines = self._errors.read_bytes()[before:].decode("utf-8", "replace")
        return Ending(*answer, lines, seconds, peak)

    def _ask(
        self, process: subprocess.Popen[bytes], path: Path
    ) -> tuple[tuple[str, str] | None, int]:
        """The answer, None without one; and the peak of memory."""
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(os.fsencode(path) + b"\n")
            process.stdin.flush()
        end, peak = time.monotonic() + self._seconds, 0
        while time.monotonic() < end:
            ready = select.select([process.stdout], [], [], 0.05)[0]
            peak = max(peak, sum(map(peak_memory, processes(process.pid))))
            if ready:
                line = process.stdout.readline()
                return (tuple(json.loads(line)) if line else None), peak
        return None, peak

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            with self._errors.open("ab") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.faults.opener"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                    start_new_session=True,
                )  # fmt: skip
        return self._process

    def close(self) -> None:
        """End the process and what it started."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        _close(self._process.stdin, self._process.stdout)
        self._process = None


def _close(*files: IO[bytes] | None) -> None:
    for file in files:
        if file is not None:
            with suppress(OSError):
                file.close()


def processes(number: int) -> Iterator[int]:
    """A process and all that it started."""
    yield number
    for task in Path("/proc").glob(f"{number}/task/*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                yield from processes(int(child))


def peak_memory(number: int) -> int:
    """The peak of a process's resident memory in bytes, 0 if it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{number}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0

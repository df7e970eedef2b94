"""Decoding in a process of its own, which bounds what a file can do: memory, time, a crash.

The worker (`sage_core.media.worker`) writes pixels into a file in memory, which this process maps.
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from logging import DEBUG, getLogger
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

import numpy as np

from sage_core import errors
from sage_core.errors import InputError, OptionError
from sage_core.media.frame_sampling import MAX_FRAMES, MAX_PIXELS
from sage_core.media.streams import scratch_file
from sage_core.media.types import Clip, Picture, Sampling
from sage_core.media.wire import Task, receive, send

_START = (
    "import os, sys; sys.path[:] = sys.argv.pop(1).split(os.pathsep); "
    "from sage_core.media.worker import main; main()"
)
_GRACE = 30.0
"""Seconds that are waited beyond the limit: the worker, which keeps the limit, starts meanwhile."""


@dataclass(frozen=True)
class MediaLimits:
    """What decoding one file may take.

    Raises:
        OptionError: a value is out of range.
    """

    memory: int = 2 * 1024**3
    """Bytes of address space beside those of the libraries. Kept on Linux."""
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if type(self.memory) is not int or not 2**26 <= self.memory <= 2**50:
            raise OptionError(f"memory must be from 64 MiB to 1 PiB in bytes, not {self.memory!r}")
        number = isinstance(self.seconds, int | float) and math.isfinite(self.seconds)
        if not number or not 0 < self.seconds <= 10**6:
            raise OptionError(f"seconds must be from 0 to 1,000,000, not {self.seconds!r}")


@dataclass(frozen=True, eq=False)
class _Request:
    """A file that the worker decodes."""

    path: str | None
    """None: the file came by its descriptor."""
    task: Task
    name: str
    pixels: BinaryIO
    """Where the worker writes them."""
    started: float = field(default_factory=monotonic)


class MediaWorker:
    """Decodes files in one other process, in order; started anew after a crash.

    The process ends with `close`, with this object, and with this process, however that ends. On
    Linux it also ends with the thread that started it. Calls from several threads wait for each
    other.
    """

    def __init__(self, limits: MediaLimits | None = None) -> None:
        self._limits = limits or MediaLimits()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._end: weakref.finalize[..., Any] | None = None
        self._owner = 0
        self._begun: _Request | None = None

    def __enter__(self) -> MediaWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def supported() -> bool:
        """Whether this system can pass open files to another process (not Windows)."""
        return hasattr(socket, "send_fds") and os.name == "posix"

    def start(self) -> None:
        """Start the process, which takes a moment in parallel to this one. Not required."""
        with self._lock:
            self._leave_parents()
            self._started()

    def close(self) -> None:
        """End the process. A later call of `open` starts another."""
        with self._lock:
            self._stop()

    def begin(self, path: str | Path, sampling: Sampling, name: str | None = None) -> None:
        """Start decoding a file, unless another one is decoded, and do not wait for it.

        The same file is then to be opened next: opening another one ends this.
        """
        self._begin(path, Task("open", sampling), name)

    def begin_cuts(self, path: str | Path, part: tuple[float, float], name: str) -> None:
        """Start what `cuts` is to be asked for next, as `begin` does."""
        self._begin(path, Task("cuts", part=part), name)

    def _begin(self, path: str | Path, task: Task, name: str | None) -> None:
        with self._lock:
            self._leave_parents()
            if self._begun is None:
                name = name or os.fspath(path)
                self._begun = self._send(str(Path(path)), None, task, name)

    def open(self, source: str | Path | BinaryIO, sampling: Sampling, name: str) -> Picture | Clip:
        """A regular file or an open binary file, decoded as by `open_media`, with its errors.

        A clip's frames are a private mapping of memory that the worker has written.

        Raises:
            InputError: also if the limits are reached or the decoder crashes.
        """
        opened: Picture | Clip = self._answer(source, Task("open", sampling), name)
        return opened

    def check(self, source: str | Path | BinaryIO, name: str) -> None:
        """Refuse what `check_media` refuses, asked in the other process."""
        self._answer(source, Task("check"), name)

    def length(self, source: str | Path | BinaryIO, name: str) -> float | None:
        """Seconds of a video; None for pictures and animations. Raises as `open`."""
        length: float | None = self._answer(source, Task("length"), name)
        return length

    def cuts(
        self, source: str | Path | BinaryIO, part: tuple[float, float], name: str
    ) -> list[float]:
        """Where scenes begin within [start, end) of a video, in seconds. Raises as `open`.

        With the extra ``scenes``; the limit of time holds for the part.
        """
        found: list[float] = self._answer(source, Task("cuts", part=part), name)
        return found

    def _answer(self, source: str | Path | BinaryIO, task: Task, name: str) -> Any:
        with self._lock:
            self._leave_parents()
            path = str(Path(source)) if isinstance(source, str | Path) else None
            begun, self._begun = self._begun, None
            asked = (path, task, name)
            if begun is None or path is None or (begun.path, begun.task, begun.name) != asked:
                if begun is not None:
                    self._stop()  # its reply would be taken for the next one's
                file = None if isinstance(source, str | Path) else _as_file(source)
                begun = self._send(path, file, task, name)
            with begun.pixels:
                return self._wait(begun)

    def _started(self) -> socket.socket:
        """The connection to a running process."""
        if self._process is not None and self._process.poll() is not None:
            self._stop()
        if self._connection is None:
            self._owner = os.getpid()
            self._process, self._connection = _start_process(self._limits)
            self._end = weakref.finalize(
                self, _end_process, self._process, self._connection, self._owner
            )
        return self._connection

    def _leave_parents(self) -> None:
        """After a fork, the process is the parent's: this one gets its own."""
        if self._owner != os.getpid():
            self._stop()

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
        self._process = self._connection = self._end = self._begun = None

    def _send(self, path: str | None, file: BinaryIO | None, task: Task, name: str) -> _Request:
        request = _Request(path, task, name, scratch_file())
        message: dict[str, Any] = {"name": name, "task": asdict(task)}
        if path is not None:
            message["path"] = str(Path(path).absolute())
        files = [one.fileno() for one in (request.pixels, file) if one is not None]
        try:
            try:
                send(self._started(), message, files)
            except (BrokenPipeError, ConnectionResetError):  # it ended since it was last used
                self._stop()
                send(self._started(), message, files)
        except BaseException:  # an interruption, with half a message sent
            self._stop()
            raise
        return request

    def _wait(self, request: _Request) -> Any:
        """The reply to ``request``, which is the only one sent."""
        assert self._connection is not None
        left = request.started + self._limits.seconds + _GRACE - monotonic()
        try:
            self._connection.settimeout(max(left, 0.1))
            received = receive(self._connection)
            self._connection.settimeout(None)
        except TimeoutError:
            self._stop()
            raise self._too_long(request.name) from None
        except (ConnectionResetError, ValueError, RecursionError):
            received = None
        except BaseException:  # an interruption: the reply would come later
            self._stop()
            raise
        if received is None:
            raise self._ended(request.name)
        reply = received[0]
        if reply.get("last"):
            self._stop()
        if "error" in reply:
            raise self._error(reply, request.name)
        try:
            return _result(reply, request)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{request.name}: the decoder's answer is damaged") from error

    def _error(self, reply: dict[str, Any], name: str) -> Exception:
        kind, text = reply["error"], str(reply.get("text", ""))
        if kind == "MemoryError":
            size = f"{self._limits.memory / 2**30:g} GiB"
            return InputError(
                f"{name}: decoding needs more than {size}: shrink it, or raise --media-memory"
            )
        if kind in errors.__all__:
            error: Exception = getattr(errors, kind)(text)
            return error
        return InputError(f"{name}: the file is corrupt or of an unsupported format ({text})")

    def _too_long(self, name: str) -> InputError:
        return InputError(
            f"{name}: decoding took longer than {self._limits.seconds:g} s: shrink it, take a "
            "part of it, or raise --media-seconds"
        )

    def _ended(self, name: str) -> InputError:
        """Why the process ended within a request."""
        assert self._process is not None
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            code = 0
        self._stop()
        if code == -signal.SIGALRM:
            return self._too_long(name)
        if code == -signal.SIGKILL:
            return InputError(
                f"{name}: the system ended the decoder, probably for lack of memory: shrink it"
            )
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return InputError(
            f"{name}: the decoder crashed ({cause}): get a complete copy, or convert it to PNG or "
            "MP4"
        )


def _start_process(limits: MediaLimits) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    # Each thread of a library would reserve address space.
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    arguments = [os.pathsep.join(sys.path), str(limits.memory), str(limits.seconds)]
    shown = getLogger("sage_core").isEnabledFor(DEBUG)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, *arguments],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=None if shown else subprocess.DEVNULL,
            env={**os.environ, **single},
            start_new_session=True,  # Ctrl-C is for the parent, which ends this process
        )
    return process, ours


def _end_process(process: subprocess.Popen[bytes], connection: socket.socket, owner: int) -> None:
    connection.close()
    if os.getpid() != owner:  # in a fork of the process that started it
        return
    process.kill()
    with suppress(subprocess.TimeoutExpired):  # it waits for a device
        process.wait(5)


def _as_file(source: BinaryIO) -> BinaryIO:
    """``source`` if it is a scratch file or another regular one, else a copy of what is in it."""
    try:
        if isinstance(source.fileno(), int) and source.tell() == 0 and source.seekable():
            return source
    except (AttributeError, OSError):
        pass
    copy = scratch_file()
    shutil.copyfileobj(source, copy)
    copy.flush()
    return copy


def _result(reply: dict[str, Any], request: _Request) -> Any:
    """What a method of `MediaWorker` returns. Raises as `_opened`."""
    kind = request.task.kind
    if kind == "open":
        return _opened(reply, request)
    if kind == "cuts":
        found = [float(seconds) for seconds in reply["cuts"]]
        if not np.isfinite(found).all():
            raise ValueError("not times")
        return found
    if kind == "length" and reply["length"] is not None:
        length = float(reply["length"])
        if not 0 < length < math.inf:
            raise ValueError(f"{length} is no length")
        return length
    return None


def _opened(reply: dict[str, Any], request: _Request) -> Picture | Clip:
    """The result that ``reply`` describes, with the pixels that the worker wrote.

    Raises:
        KeyError, TypeError, ValueError: the description is wrong or does not fit the pixels.
    """
    descriptor = request.pixels.fileno()
    length = os.fstat(descriptor).st_size
    picture = reply["kind"] == "picture"
    shape = [1, *reversed(reply["size"]), 3] if picture else list(reply["shape"])
    frames, height, width, channels = shape
    if not all(type(n) is int and n > 0 for n in shape) or math.prod(shape) != length:
        raise ValueError(f"{shape} is not the shape of {length} bytes")
    if frames > MAX_FRAMES or height * width > MAX_PIXELS or channels != 3:
        raise ValueError(f"{shape} is beyond the limits")
    # Private: what is written to the arrays stays in this process (torch warns of read-only ones).
    pixels = mmap.mmap(descriptor, length, access=mmap.ACCESS_COPY)
    if picture:
        from PIL import Image

        with pixels:
            image = Image.frombytes("RGB", (width, height), pixels)  # type: ignore[arg-type]
        return Picture(image, request.name, str(reply["note"]))
    timestamps = np.array(reply["timestamps"], np.float64)
    if timestamps.shape != (frames,) or not np.isfinite(timestamps).all():
        raise ValueError("not the times of the frames")
    array = np.frombuffer(pixels, np.uint8).reshape(shape)
    return Clip(array, timestamps, float(reply["fps"]), float(reply["duration"]), request.name)

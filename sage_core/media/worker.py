"""The process in which files are decoded for another one, within limits of memory and time.

It is started by `sage_core.media.isolate` with a socket as its standard input, and ends when that
is closed. A request names a file and the sampling, and brings an empty file for the pixels.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sage_core.errors import SageError
from sage_core.media.limits import largest_size, limit_memory
from sage_core.media.open import check_media, cuts_here, length_here, open_here
from sage_core.media.types import Clip, Picture
from sage_core.media.video_pyav import KeptVideo
from sage_core.media.wire import Task, receive, send

_ROWS = 512
"""Rows of a picture that are copied at once."""


def main() -> None:
    """Answer requests until the other end closes the connection.

    The arguments are the bytes of address space that decoding may add to what the libraries take,
    and the seconds that a request may take.
    """
    memory, seconds = int(sys.argv[1]), float(sys.argv[2])
    _end_with_parent()
    connection = socket.socket(fileno=os.dup(0))
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    for library in ("PIL.Image", "av", "decord"):  # so that the first file need not wait for them
        with suppress(ImportError):
            __import__(library)
    large = limit_memory(memory)
    kept = KeptVideo()
    while (request := receive(connection)) is not None:
        # The timer's signal ends the process, whatever a decoder does at that moment.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        reply = _reply(*request, large, kept)
        signal.setitimer(signal.ITIMER_REAL, 0)
        # Memory that stays taken would be missing for the next file: a new process is started.
        reply["last"] = largest_size() > large or reply.get("error") == "MemoryError"
        send(connection, reply)
        if reply["last"]:
            return


def _reply(
    request: dict[str, Any], files: list[int], large: int, kept: KeptVideo
) -> dict[str, Any]:
    """What ``request`` asks for, or its error as text. ``files``: for the pixels; to be read."""
    try:
        with os.fdopen(files[0], "wb") as output:
            source: Path | BinaryIO
            if len(files) == 1:
                source = Path(request["path"])
            elif not (source := Path(f"/proc/self/fd/{files[1]}")).exists():
                source = os.fdopen(os.dup(files[1]), "rb")
            kept.keep_only(source if isinstance(source, Path) else b"")
            return _done(Task.of(request["task"]), source, request["name"], output, kept)
    except Exception as error:
        if _is_for_memory(error, large):
            return {"error": "MemoryError", "text": ""}
        if isinstance(error, SageError):
            return {"error": type(error).__name__, "text": str(error)}
        return {"error": "Exception", "text": f"{type(error).__name__}: {error}"}
    finally:
        for file in files[1:]:
            os.close(file)


def _done(
    task: Task, source: Path | BinaryIO, name: str, output: BinaryIO, kept: KeptVideo
) -> dict[str, Any]:
    if task.kind == "check":
        check_media(source, name)
        return {"kind": "known"}
    if task.kind == "length":
        return {"kind": "length", "length": length_here(source, name, kept)}
    if task.part is not None:
        return {"kind": "cuts", "cuts": cuts_here(source, task.part, name, kept)}
    assert task.sampling is not None
    return _written(open_here(source, task.sampling, name, kept), output)


def _written(opened: Picture | Clip, output: BinaryIO) -> dict[str, Any]:
    """Write the pixels, uint8 RGB in rows, and describe them."""
    if isinstance(opened, Picture):
        width, height = opened.size
        for top in range(0, height, _ROWS):
            part = opened.image.crop((0, top, width, min(top + _ROWS, height)))
            output.write(part.tobytes())
        return {"kind": "picture", "size": [width, height], "note": opened.note}
    output.write(np.ascontiguousarray(opened.frames).data)
    return {
        "kind": "clip",
        "shape": list(opened.frames.shape),
        "timestamps": [float(seconds) for seconds in opened.timestamps],
        "fps": float(opened.fps),
        "duration": float(opened.duration),
    }


def _is_for_memory(error: BaseException, large: int) -> bool:
    """Whether an allocation failed. FFmpeg also says so of sizes that only damaged files claim."""
    for one in _chain(error):
        words = str(one).lower()
        if isinstance(one, MemoryError) and not hasattr(one, "errno"):
            return True
        if ("memory" in words or "alloc" in words) and largest_size() > large:
            return True
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _end_with_parent() -> None:
    """End when the parent does, also while decoding (Linux; elsewhere the timer ends it)."""
    with suppress(Exception):
        import ctypes

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(OSError):  # where memory is short this process goes, not the one with the models
        Path("/proc/self/oom_score_adj").write_text("1000")

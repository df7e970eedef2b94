"""Input that can be read once only (standard input, pipes): kept in memory as it comes."""

from __future__ import annotations

import os
import select
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sage_core.errors import InputError

LIMIT = 2 * 1024**3
"""Bytes that are read from a stream; a longer one is refused."""
IDLE_SECONDS = 60.0
"""A pipe to which nothing is written for so long is refused."""
_CHUNK = 2**20


def scratch_file() -> BinaryIO:
    """An empty file without a name, in memory on Linux: it is gone when the last process that has
    it open ends, however it ends.
    """
    with suppress(AttributeError, OSError):
        return os.fdopen(os.memfd_create("sage"), "w+b")
    return tempfile.TemporaryFile()


def keep(read: Callable[[int], bytes], name: str) -> BinaryIO:
    """A scratch file, called ``name``, of all that ``read(most)`` gives until it gives nothing.

    Raises:
        InputError: there are more than `LIMIT` bytes.
    """
    file, left = scratch_file(), LIMIT
    while chunk := read(_CHUNK):
        left -= len(chunk)
        if left < 0:
            raise InputError(f"{name}: is larger than 2 GiB: give a file instead")
        file.write(chunk)
    file.flush()
    file.seek(0)
    file.raw.name = name  # type: ignore[attr-defined]
    return file


def read_pipe(path: Path, name: str, idle: float = IDLE_SECONDS) -> BinaryIO:
    """All that is written to a FIFO or another pipe, as `keep`; signals interrupt the wait.

    Raises:
        InputError: nothing was written for ``idle`` seconds, or there are more than `LIMIT` bytes.
        OSError: it cannot be opened or read.
    """
    # Without O_NONBLOCK, opening a FIFO waits for a writer, and nothing limits that wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)

    def read(most: int) -> bytes:
        if not ready.poll(1000 * idle):
            raise InputError(f"{name}: nothing was written to this pipe for {idle:g} s")
        return os.read(descriptor, most)

    try:
        return keep(read, name)
    finally:
        os.close(descriptor)

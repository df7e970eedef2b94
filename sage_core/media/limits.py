"""Limits of the address space of a process that decodes (Linux: other systems do not keep them)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

_INDEX = ContextVar("index", default=0)
"""Bytes by which indexing a video may let the address space grow; 0: any number."""


def limit_memory(memory: int) -> int:
    """Let the address space of this process grow by ``memory`` bytes; half of it for an index.

    Returns the size from which on this process has taken much: a third of the bytes more than now.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not (size := _size()):
        return sys.maxsize
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = size + memory if most == resource.RLIM_INFINITY else min(size + memory, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    _INDEX.set(memory // 2)
    return size + memory // 3


@contextmanager
def index_memory() -> Iterator[None]:
    """Where `limit_memory` was called, only half of that memory is there within the context.

    The demuxers make tables of the lengths that a file claims, and a few kilobytes can claim
    gigabytes. An honest index of a day of video takes some hundred megabytes.
    """
    if not (memory := _INDEX.get()):
        yield
        return
    import resource

    limit, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (min(limit, _size() + memory), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def largest_size() -> int:
    """The largest size of the address space so far, in bytes; 0 if the system does not say it."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmPeak:"):
                return int(line.split()[1]) * 1024
    return 0


def _size() -> int:
    """The size of the address space, in bytes; 0 if the system does not say it."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    return 0

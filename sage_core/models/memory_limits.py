"""Limits of this process's memory: control groups of Linux (containers), ``ulimit -v``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NONE = 2**60
"""Version 1 writes about 2^63 where there is no limit."""


@dataclass(frozen=True)
class _Files:
    """The names of a control group's files in a version of the interface."""

    limits: tuple[str, ...]
    used: str
    cached: str
    """In ``memory.stat``: file caches that are given up for other memory."""


_VERSIONS = {
    "cgroup2": _Files(("memory.max", "memory.high"), "memory.current", "inactive_file"),
    "cgroup": _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
}


def limits(root: Path = Path("/")) -> list[tuple[int, int]]:
    """Bytes allowed and bytes free of every limit on this process; empty without one.

    ``root`` is the file system in which ``proc`` and the control groups lie.
    """
    found = [
        limit
        for kind, folder, mount in control_groups(root, "memory")
        for limit in _of_groups(_VERSIONS[kind], folder, mount)
    ]
    return [*found, *_address_space()]


def control_groups(root: Path, controller: str) -> Iterator[tuple[str, Path, Path]]:
    """The control groups of this process with a controller: file system, folder and mount.

    ``root`` is as for `limits`; ``controller`` is ``memory`` or ``cpu``.
    """
    paths = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            paths["cgroup2"] = path
        elif controller in controllers.split(","):
            paths["cgroup"] = path
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in paths or (kind == "cgroup" and controller not in options.split(",")):
            continue
        inside, place = map(_unescaped, before.split(" ")[3:5])
        mount = root / place.lstrip("/")
        # In a container without a namespace of its own, the mount shows a part of the tree.
        path = paths[kind]
        below = path.removeprefix(inside.rstrip("/")) if path.startswith(inside) else "/"
        folder = mount / below.strip("/")
        yield kind, folder if ".." not in folder.parts and folder.is_dir() else mount, mount


def _of_groups(files: _Files, folder: Path, mount: Path) -> Iterator[tuple[int, int]]:
    """The limits of a group and of those above it, which hold as well."""
    for group in (folder, *folder.parents):
        allowed = min((_number(group / name) for name in files.limits), default=_NONE)
        if allowed < _NONE:
            yield allowed, max(0, allowed - _used(files, group))
        if group == mount:
            return


def _used(files: _Files, group: Path) -> int:
    used = _number(group / files.used)
    stat = "\n".join(_lines(group / "memory.stat"))
    cached = re.search(rf"^{files.cached} (\d+)$", stat, re.MULTILINE)
    return max(0, used - int(cached[1] if cached else 0)) if used < _NONE else 0


def _number(path: Path) -> int:
    """The number in a file; `_NONE` for ``max``, or if there is no such file."""
    try:
        return min(_NONE, int(path.read_text(encoding="ascii")))
    except (OSError, ValueError):
        return _NONE


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # another system
        return []


def _unescaped(name: str) -> str:
    r"""A path of ``mountinfo``, where a blank is written ``\040``."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)


def _address_space() -> list[tuple[int, int]]:
    """The limit of ``ulimit -v``."""
    try:
        import resource
    except ImportError:  # Windows
        return []
    import psutil

    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed == resource.RLIM_INFINITY:
        return []
    return [(allowed, max(0, allowed - int(psutil.Process().memory_info().vms)))]

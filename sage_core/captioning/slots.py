"""The shares of a machine that several processes get: GPUs, or groups of CPU cores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sage_core.captioning.pool import Slot
from sage_core.models.memory_limits import control_groups

__all__ = ["automatic_count", "find_slots"]

_LEAST_CORES = 8
"""Cores from which several processes on a CPU are worth their start: with fewer, `--batch` alone
uses them as well."""
_CORES_EACH = 4
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def find_slots(count: int, device: str = "auto") -> tuple[Slot, ...]:
    """``count`` shares of this machine for processes that use ``device`` (see `sage_core.load`).

    With ``auto`` or ``cuda`` each gets its own GPUs, or several share one; without a GPU, and with
    ``cpu``, each gets its own cores.
    """
    gpus = _gpus() if device in ("auto", "cuda") else ()
    on_host = device == "cpu" or (device == "auto" and not gpus)
    return shares(count, gpus, usable_cores(), usable_threads(), pinned=on_host)


def shares(
    count: int,
    gpus: Sequence[str],
    cores: Sequence[int],
    threads: int,
    *,
    pinned: bool = True,
    environment: Mapping[str, str] = os.environ,
) -> tuple[Slot, ...]:
    """Equal shares of ``gpus``, ``cores`` and ``threads``.

    Args:
        gpus: their names in CUDA_VISIBLE_DEVICES; none: they are not divided.
        cores: CPUs that may be used, those that share caches side by side; () if unknown.
        threads: CPUs' worth of time that may be used.
        pinned: whether each process keeps to its own cores.
        environment: OMP_NUM_THREADS in it is the most threads of a process.
    """
    most = max(1, threads // count)
    with suppress(KeyError, ValueError):
        most = max(1, min(most, int(environment["OMP_NUM_THREADS"])))
    found = []
    for number in range(count):
        variables = {"OMP_NUM_THREADS": str(most), "MKL_NUM_THREADS": str(most)}
        if gpus:
            variables[_VISIBLE] = ",".join(_part(gpus, number, count))
        found.append(Slot(variables, tuple(_part(cores, number, count)) if pinned else ()))
    return tuple(found)


def _part(things: Sequence[Any], number: int, count: int) -> Sequence[Any]:
    """Part ``number`` of ``count``; where there are fewer things, several have the same one."""
    if len(things) < count:
        return things[number % len(things) :][:1] if things else ()
    return things[number * len(things) // count : (number + 1) * len(things) // count]


def automatic_count(loading: Mapping[str, Any]) -> int:
    """The number of processes for models loaded with the arguments ``loading``.

    On GPUs as many as fit, each on one GPU, or on as many as the models need. On a CPU 1 with fewer
    than 8 cores, else one for 4 cores if memory holds so many copies.

    Raises:
        SageError: as `sage_core.load`, before weights are read.
    """
    from sage_core.models.devices import find_devices

    device = str(loading.get("device", "auto"))
    if device not in ("auto", "cuda", "cpu"):
        return 1
    found = find_devices()
    gpus = [one for one in found if one.name.startswith("cuda")]
    if device != "cpu" and gpus:
        if len(gpus) == 1:
            return 1
        each = -(-_needed(loading, "checkpoint") // max(1, min(one.free for one in gpus)))
        return max(1, len(gpus) // max(1, each))
    if device == "cuda":
        return 1  # loading refuses it
    cores = usable_threads()
    if cores < _LEAST_CORES:
        return 1
    return max(1, min(cores // _CORES_EACH, found[0].free // _needed(loading, "float32")))


def _needed(loading: Mapping[str, Any], dtype: str) -> int:
    """Bytes of memory of one pair, in ``dtype`` if none was asked for."""
    from sage_core.pair_loading import measure_pair

    asked = loading.get("dtype", "auto")
    names = ("target", "draft", "quantization", "revision", "draft_revision", "trust_remote_code")
    size = measure_pair(**{name: loading[name] for name in names if name in loading})
    return sum(need.total for need in size.needs(dtype if asked == "auto" else str(asked)))


def _gpus() -> tuple[str, ...]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    given = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    return tuple(given[:number] if len(given) >= number else map(str, range(number)))


def usable_cores() -> tuple[int, ...]:
    """CPUs that this process may run on, hardware threads of a core side by side; () if unknown."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    return tuple(sorted(os.sched_getaffinity(0), key=_place))


def _place(cpu: int) -> tuple[int, int, int]:
    """The socket and the core of a CPU."""
    folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        socket, core = (
            int((folder / name).read_text()) for name in ("physical_package_id", "core_id")
        )
    except (OSError, ValueError):
        return 0, cpu, cpu
    return socket, core, cpu


def usable_threads(root: Path = Path("/")) -> int:
    """CPUs' worth of time that this process may use: its CPUs, or less by a control group.

    ``root`` is the file system in which ``proc`` and the control groups lie.
    """
    cores = float(len(usable_cores()) or os.cpu_count() or 1)
    for _, folder, mount in control_groups(root, "cpu"):
        for group in (folder, *folder.parents):
            cores = min(cores, _quota(group))
            if group == mount:
                break
    return max(1, int(cores))


def _quota(group: Path) -> float:
    """CPUs' worth of time that a control group allows."""
    with suppress(OSError, ValueError):  # version 2; "max" is no number
        limit, period = (group / "cpu.max").read_text().split()
        return int(limit) / int(period)
    with suppress(OSError, ValueError):  # version 1; -1 is no limit
        limit = (group / "cpu.cfs_quota_us").read_text()
        period = (group / "cpu.cfs_period_us").read_text()
        if int(limit) > 0:
            return int(limit) / int(period)
    return float("inf")

"""Which device and dtype to run on, and what this machine has."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from sage_core.errors import OptionError

DTYPES = ("float32", "bfloat16", "float16")
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow", "decord")
_OPTIONAL = ("av", "torchvision", "accelerate")


@dataclass(frozen=True)
class Choice:
    """A device with a dtype, and one line that says why."""

    device: str
    dtype: str
    """``float32``, ``bfloat16``, ``float16``, or ``checkpoint``: the one the weights are in."""
    note: str


@dataclass(frozen=True)
class Device:
    """One device that torch can use here."""

    name: str
    """As given to ``device``: ``cpu``, ``cuda:0``."""
    description: str
    memory: int
    """Bytes in all; 0 if the platform does not tell."""
    free: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class DeviceReport:
    """What ``sage doctor`` shows."""

    versions: dict[str, str | None]
    """Package or platform part and its version, None where it is not installed."""
    devices: tuple[Device, ...]
    chosen: Choice
    video: str
    """How videos would be decoded, or what is missing for it."""


def choose(device: str = "auto", dtype: str = "auto") -> Choice:
    """Pick the device (``auto``: the first GPU, else the CPU) and the dtype.

    ``dtype`` ``auto`` is float32 on the CPU and the checkpoint's own on a GPU.

    Raises:
        OptionError: an unknown name, or a device that is not on this machine.
    """
    import torch

    if dtype not in ("auto", *DTYPES):
        raise OptionError(f"unknown dtype {dtype!r}: choose auto, {', '.join(DTYPES)}")
    if device == "auto":
        picked = "cuda:0" if torch.cuda.is_available() else "cpu"
        why = (
            f"using the GPU ({torch.cuda.get_device_name(0)})"
            if picked != "cpu"
            else "no GPU found: running on the CPU"
        )
    else:
        picked = _check_device(device)
        why = f"running on {'the CPU' if picked == 'cpu' else picked} as asked"
    if dtype == "auto":
        dtype = "float32" if picked == "cpu" else "checkpoint"
    shown = "the checkpoint's own dtype" if dtype == "checkpoint" else dtype
    return Choice(picked, dtype, f"{why} in {shown}")


def _check_device(device: str) -> str:
    import torch

    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise OptionError(f"unknown device {device!r}: choose auto, cpu, cuda or cuda:N") from error
    if parsed.type == "cpu":
        return "cpu"
    if parsed.type == "mps":
        if not torch.backends.mps.is_available():
            raise OptionError("device mps is not available here: use --device auto")
        return "mps"
    if parsed.type != "cuda":
        raise OptionError(f"device {device!r} is not supported: choose auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (parsed.index or 0) >= count:
        here = f"only {count} here" if count else "there is no GPU that torch can use"
        raise OptionError(f"device {device!r} is not available: {here}: use auto or cpu")
    return f"cuda:{parsed.index or 0}"


def report() -> DeviceReport:
    """Versions, devices and what would be chosen; for ``sage doctor``."""
    import torch

    versions: dict[str, str | None] = {"python": platform.python_version()}
    versions["platform"] = platform.platform(terse=True)
    for package in (*_PACKAGES, *_OPTIONAL):
        versions[package] = _version(package)
    versions["cuda"] = torch.version.cuda
    devices = [
        Device(
            "cpu",
            f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
            *_host_memory(),
            dtypes=("float32", "bfloat16"),
        )
    ]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            dtypes = DTYPES if torch.cuda.is_bf16_supported() else ("float32", "float16")
            devices.append(Device(f"cuda:{index}", name, total, free, dtypes))
    return DeviceReport(versions, tuple(devices), choose(), _video(versions))


def _video(versions: dict[str, str | None]) -> str:
    if versions["decord"] and versions["av"]:
        return "decord, then PyAV"
    if versions["decord"]:
        return "decord (AV1 also needs: pip install av)"
    if versions["av"]:
        return "PyAV"
    return "no decoder: pip install decord"


def _version(package: str) -> str | None:
    # eva-decord provides the module decord where decord itself has no wheel.
    for name in (package, f"eva-{package}") if package == "decord" else (package,):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _host_memory() -> tuple[int, int]:
    """Total and available bytes of the host, zeros where the platform does not tell."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0, 0


def torch_dtype(name: str) -> Any:
    """torch's dtype of that name; ``"auto"``, as transformers spells it, for ``checkpoint``."""
    import torch

    return "auto" if name == "checkpoint" else getattr(torch, name)

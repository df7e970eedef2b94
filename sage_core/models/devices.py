"""Devices of this machine, their memory and dtypes, and versions of the libraries."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sage_core.errors import OptionError
from sage_core.models.memory_limits import limits

AUTO = "auto"
DTYPES = ("float32", "bfloat16", "float16")
_PACKAGES = (
    *("torch", "transformers", "tokenizers", "huggingface_hub", "safetensors", "accelerate"),
    *("numpy", "pillow", "av", "decord"),
)
_OPTIONAL = ("torchvision", "bitsandbytes", "torchao", "gptqmodel", "optimum", "triton")


@dataclass(frozen=True)
class DeviceChoice:
    """A device with a dtype, and a one-line reason."""

    device: str
    dtype: str
    """``float32``, ``bfloat16``, ``float16``, or ``checkpoint`` (that of the weights)."""
    note: str


@dataclass(frozen=True)
class Device:
    """One device that torch can use."""

    name: str
    """As given to ``device``: ``cpu``, ``cuda:0``, ``mps``."""
    description: str
    memory: int
    """Total bytes; 0 if unknown."""
    free: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class DeviceReport:
    """What ``sage doctor`` shows."""

    versions: dict[str, str | None]
    """Versions by package; None if not installed."""
    devices: tuple[Device, ...]
    chosen: DeviceChoice
    """For a pair that fits on one device."""
    video: str
    """The available video decoders, or how to install one."""
    cache: str
    """The folder that models are downloaded to."""


def find_devices() -> tuple[Device, ...]:
    """The CPU first, then all GPUs, with their current memory."""
    import torch

    cores = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    found = [Device("cpu", cores, *_host_memory(), dtypes=("float32", "bfloat16"))]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            # Memory cached by torch is available to new tensors.
            free += torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
            name = torch.cuda.get_device_name(index)
            dtypes = DTYPES if torch.cuda.is_bf16_supported() else ("float32", "float16")
            found.append(Device(f"cuda:{index}", name, total, free, dtypes))
    if torch.backends.mps.is_available():  # shares the host's memory
        found.append(Device("mps", "Apple GPU", found[0].memory, found[0].free, DTYPES))
    return tuple(found)


def check_device(device: str, found: Sequence[Device]) -> str:
    """The full name of a device among ``found``, or ``auto``.

    Raises:
        OptionError: an unknown name, or a device that is not available.
    """
    if device == AUTO:
        return AUTO
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise OptionError(f"unknown device {device!r}: choose auto, cpu, cuda, cuda:N or mps")
    name = "cuda:0" if device == "cuda" else device
    names = [one.name for one in found]
    if name in names:
        return name
    gpus = sum(one.startswith("cuda") for one in names)
    here = f"only {gpus} here" if gpus else "there is no GPU that torch can use"
    here = here if name != "mps" else "it is Apple's"
    raise OptionError(f"device {device!r} is not available: {here}: use auto or cpu")


def check_dtype(dtype: str) -> None:
    """Raise `OptionError` for a dtype that is neither ``auto`` nor one of `DTYPES`."""
    if dtype not in (AUTO, *DTYPES):
        raise OptionError(f"unknown dtype {dtype!r}: choose auto, {', '.join(DTYPES)}")


def choose(found: Sequence[Device]) -> DeviceChoice:
    """The choice of ``auto`` for a pair that fits: the first GPU, else the CPU."""
    gpu = next((one for one in found if one.name.startswith("cuda")), None)
    if gpu is None:
        return DeviceChoice("cpu", "float32", "no GPU found: running on the CPU in float32")
    note = f"using the GPU: {gpu.name} ({gpu.description}) in the checkpoint's own dtype"
    return DeviceChoice(gpu.name, "checkpoint", note)


def report() -> DeviceReport:
    """Versions, devices and the choice of ``auto``, for ``sage doctor``."""
    import torch
    from huggingface_hub import constants

    versions = {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        **{package: version_of(package) for package in (*_PACKAGES, *_OPTIONAL)},
        "cuda": torch.version.cuda,
    }
    video = "PyAV and decord" if versions["decord"] else "PyAV"
    video = video if versions["av"] else "none: pip install av"
    found = find_devices()
    return DeviceReport(versions, found, choose(found), video, str(constants.HF_HUB_CACHE))


def version_of(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    # eva-decord provides the module decord where decord has no wheel.
    for name in (package, f"eva-{package}") if package == "decord" else (package,):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


@cache
def processor() -> str:
    """The model name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()


def _host_memory() -> tuple[int, int]:
    """Total and available bytes of the host, or of the tightest limits on this process."""
    import psutil

    memory = psutil.virtual_memory()
    known = [(int(memory.total), int(memory.available)), *limits()]
    return min(total for total, _ in known), min(free for _, free in known)


def torch_dtype(name: str) -> Any:
    """The torch dtype of that name; ``"auto"``, the value for transformers, for ``checkpoint``."""
    import torch

    return "auto" if name == "checkpoint" else getattr(torch, name)

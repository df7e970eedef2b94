"""The device of each model of a pair, chosen before any weights are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sage_core.errors import MemoryExhaustedError
from sage_core.models.devices import Device, check_device, check_dtype
from sage_core.models.memory_needs import DTYPE_BYTES, Need, Size
from sage_core.models.progress import gib
from sage_core.models.quantization import METHODS, Method

AUTO = "auto"
MARGIN: Mapping[str, int] = {"cpu": 2**28, "gpu": 2**30}
"""Bytes of a device that stay free for libraries, fragmentation and estimation errors."""


@dataclass(frozen=True)
class PairSize:
    """Sizes of a target and its draft, and the quantization of the target."""

    target: Size
    draft: Size | None = None
    method: Method | None = None

    def needs(self, dtype: str) -> tuple[Need, Need]:
        """Needs of target and draft in ``dtype``; the draft is never quantized."""
        nothing = Need(0, 0, 0)
        dtype = self.target.own_dtype if dtype == "checkpoint" else dtype
        draft = self.draft.need(dtype) if self.draft is not None else nothing
        return self.target.need(dtype, self.method), draft


@dataclass(frozen=True)
class Placement:
    """Devices and dtype of both models, and a one-line reason."""

    target: str
    """A device name, or several separated by commas."""
    draft: str
    dtype: str
    """``float32``, ``bfloat16``, ``float16``, or ``checkpoint``."""
    note: str
    budgets: Mapping[int, int] | None = None
    """For a target on several GPUs: bytes of weights per GPU index."""


def place(
    pair: PairSize,
    found: Sequence[Device],
    device: str = AUTO,
    draft_device: str = AUTO,
    dtype: str = AUTO,
) -> Placement:
    """Choose devices with enough memory for a pair and its caches.

    ``auto`` tries one GPU for both, one for each, the target spread over all GPUs, then the CPU.
    Devices of unknown memory are assumed to have enough.

    Args:
        found: the devices of this machine, the CPU first.
        device: ``auto``, or the target's device.
        draft_device: ``auto`` (that of the target if there is room), or the draft's device.
        dtype: ``auto`` (float32 on the CPU if it fits, else the checkpoint's own), or a name.

    Raises:
        OptionError: an unknown dtype, or an unknown or unavailable device.
        MemoryExhaustedError: it fits nowhere; names options that would fit.
    """
    check_dtype(dtype)
    devices = {one.name: one for one in found}
    wanted = _Request(
        pair, devices, check_device(device, found), check_device(draft_device, found), dtype
    )
    placement = wanted.search()
    if placement is None:
        raise MemoryExhaustedError(_refusal(wanted))
    return placement


@dataclass(frozen=True)
class _Request:
    """The arguments of `place`, checked."""

    pair: PairSize
    devices: Mapping[str, Device]
    device: str
    draft_device: str
    dtype: str

    def search(self) -> Placement | None:
        if self.device != AUTO:
            return self._on(self.device, self._home(self.device), "running", " as asked")
        gpus = [name for name in self.devices if name.startswith("cuda")]
        placement = self._on_gpus(gpus)
        if placement is not None:
            return placement
        why = "no GPU has room for the pair" if gpus else "no GPU found"
        host = next(iter(self.devices))
        return self._on(host, self._home(host), f"{why}: running")

    def _home(self, default: str) -> str:
        """The draft's device, which is ``default`` unless it was given."""
        return default if self.draft_device == AUTO else self.draft_device

    def _on_gpus(self, names: Sequence[str]) -> Placement | None:
        """One GPU for both, one for each, or the target spread over all."""
        places = [(name, self._home(name)) for name in names]
        if self.draft_device == AUTO and self.pair.draft:
            places += [(one, two) for one in names for two in names if one != two]
        for target, draft in places:
            placement = self._on(target, draft, "using the GPU:")
            if placement is not None:
                return placement
        return self._spread([self.devices[name] for name in names]) if len(names) > 1 else None

    def _on(self, target: str, draft: str, how: str, ending: str = "") -> Placement | None:
        """The placement on two given devices, or None if it does not fit."""
        for chosen in _dtypes(self.pair, target, self.dtype):
            needs: dict[str, int] = {}
            for name, need in zip((target, draft), self.pair.needs(chosen), strict=True):
                if need.total:
                    needs[name] = needs.get(name, 0) + need.total
            if all(_room(self.devices[name]) >= needed for name, needed in needs.items()):
                where = "the CPU" if target == "cpu" else _described(self.devices[target])
                where = f"on {where}" if how.endswith("running") else where
                used = _needed(self.devices[target], needs[target])
                note = f"{how} {where}{ending} in {_format(self.pair, chosen)}{used}"
                if draft != target and self.pair.draft is not None:
                    note += f", the draft on {draft}{_needed(self.devices[draft], needs[draft])}"
                return Placement(target, draft, chosen, note)
        return None

    def _spread(self, gpus: Sequence[Device]) -> Placement | None:
        """The target spread over the GPUs, the draft on the emptiest of them unless it is given."""
        dtype = "checkpoint" if self.dtype == AUTO else self.dtype
        target, draft = self.pair.needs(dtype)
        shared = target.cache + target.work
        gpus = [gpu for gpu in gpus if _room(gpu) > shared / len(gpus)]  # not those that are full
        if len(gpus) < 2:
            return None
        home = self._home(max(gpus, key=_room).name)
        if draft.total > _room(self.devices[home]):
            return None
        budgets = {}
        for gpu in gpus:
            room = _room(gpu) - shared // len(gpus) - (draft.total if gpu.name == home else 0)
            if room > 0:
                budgets[int(gpu.name.removeprefix("cuda:"))] = int(room)
        # Layers are not split, so part of each GPU stays empty.
        if target.weights > 0.95 * sum(budgets.values()):
            return None
        names = ",".join(f"cuda:{index}" for index in budgets)
        needed, free = (target + draft).total, sum(gpu.free for gpu in gpus)
        note = (
            f"spread over {len(budgets)} GPUs, as one has no room, in {_format(self.pair, dtype)}: "
            f"about {gib(needed)} of {gib(free)} free"
        )
        return Placement(names, home, dtype, note, budgets)


def _dtypes(pair: PairSize, device: str, dtype: str) -> tuple[str, ...]:
    """Dtypes to try on a device, best first."""
    if dtype != AUTO:
        return (dtype,)
    if device != "cpu" or pair.target.ready_made:
        return ("checkpoint",)
    # Half precision is slow on many CPUs, and float32 has hardly any near ties of logits.
    half = DTYPE_BYTES[pair.target.own_dtype] < 4
    return ("float32", "checkpoint") if half else ("float32",)


def _room(device: Device) -> float:
    """Bytes available to models."""
    if not device.memory:
        return float("inf")
    return device.free - MARGIN["gpu" if device.name.startswith("cuda") else "cpu"]


def _format(pair: PairSize, dtype: str) -> str:
    name = pair.target.own_dtype if dtype == "checkpoint" else dtype
    return name if pair.method is None else f"{name}, quantized to {pair.method.name}"


def _described(device: Device) -> str:
    return f"{device.name} ({device.description})" if "cuda" in device.name else device.name


def _needed(device: Device, needed: int) -> str:
    free = f" of {gib(device.free)} free" if device.memory else ""
    return f": about {gib(needed)}{free}"


def _refusal(wanted: _Request) -> str:
    """One line: the memory needed, the memory available, and what would fit."""
    pair, dtype = wanted.pair, wanted.dtype
    places = [one for one in wanted.devices.values() if wanted.device in (AUTO, one.name)]
    if wanted.device == AUTO and len(places) > 1:
        places = places[1:]
    tried = _dtypes(pair, places[0].name, dtype)[-1]
    target, draft = pair.needs(tried)
    need = target + draft
    text = (
        f"the {'pair' if pair.draft else 'model'} needs about {gib(need.total)} in "
        f"{_format(pair, tried)} ({gib(need.weights)} of weights, {gib(need.cache)} of caches, "
        f"{gib(need.work)} to work in), and there is "
        f"{', '.join(f'{gib(one.free)} on {one.name}' for one in places)} free"
    )
    advice = [
        f"{option} (about {gib(sum(n.total for n in other.needs(_own(other, form))))})"
        for option, other, form in _alternatives(pair, dtype, on_cpu=places[0].name == "cpu")
        if replace(wanted, pair=other, dtype=form).search() is not None
    ]
    if not advice:
        advice = [f"a smaller model, or {gib(need.total)} on one GPU or several"]
    return f"{text}: try {', or '.join(advice)}"


def _own(pair: PairSize, dtype: str) -> str:
    return pair.target.own_dtype if dtype in (AUTO, "checkpoint") else dtype


def _alternatives(pair: PairSize, dtype: str, on_cpu: bool) -> list[tuple[str, PairSize, str]]:
    """Other ways to load the pair: the option, the resulting pair, and the dtype."""
    found: list[tuple[str, PairSize, str]] = []
    if dtype == "float32":
        found.append(("--dtype bfloat16", pair, "bfloat16"))
    if pair.method is None and not pair.target.ready_made:
        for method in METHODS:
            if (method.package == "torchao") == on_cpu and method.name != "int4":
                found.append((f"--quantization {method.name}", replace(pair, method=method), dtype))
    if pair.draft is not None:
        found.append(("a smaller --draft, or --draft none", replace(pair, draft=None), dtype))
    return found

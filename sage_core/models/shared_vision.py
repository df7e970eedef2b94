"""One vision tower for target and draft, each image encoded once (as in Spec-LLaVA)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TOWER_NAMES = ("vision_tower", "visual", "vision_model")


@dataclass(frozen=True)
class _Call:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


class SharedVision:
    """Records the outputs of a shared tower during the target's prefill, replays them to the draft.

    A tower is shared if both models hold the *same module object*, see `share_vision`. Otherwise
    both contexts do nothing.
    """

    def __init__(self, target: Any, draft: Any) -> None:
        self._calls: list[_Call] = []
        self._holder, self._name, theirs = find_tower(draft)
        mine = find_tower(target)[2]
        self._tower: nn.Module | None = mine if mine is theirs else None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the tower's inputs and outputs until the context ends."""
        if self._tower is None:
            yield
            return

        def keep(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            # Callers may modify the output's fields in place, so a copy is kept.
            self._calls.append(_Call(args, kwargs, copy.copy(output)))

        handle = self._tower.register_forward_hook(keep, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
            self._calls.clear()

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Within the context, the draft gets recorded outputs for inputs that were recorded."""
        if self._tower is None or not self._calls:
            yield
            return
        modules = self._holder._modules
        modules[self._name] = _Replay(self._tower, self._calls)
        try:
            yield
        finally:
            modules[self._name] = self._tower


class _Replay(nn.Module):
    """A module that answers recorded calls from the record, others by the tower."""

    def __init__(self, tower: nn.Module, calls: list[_Call]) -> None:
        super().__init__()
        # In a tuple, so that torch does not register the tower as a submodule.
        self._kept = (tower,)
        self._calls = calls

    @property
    def _tower(self) -> nn.Module:
        return self._kept[0]

    def __getattr__(self, name: str) -> Any:
        """Attributes of the tower, such as its dtype or config."""
        if name == "_kept":
            raise AttributeError(name)
        return getattr(self._kept[0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        for call in self._calls:
            if _same(call.args, args) and _same(call.kwargs, kwargs):
                return copy.copy(call.output)
        return self._tower(*args, **kwargs)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)


def find_tower(model: Any) -> tuple[Any, str, Any]:
    """The module that holds a vision tower, its attribute name, and the tower; (None, "", None)
    without one."""
    for holder in (getattr(model, "model", None), model):
        for name in TOWER_NAMES:
            if isinstance(holder, nn.Module) and name in holder._modules:
                return holder, name, holder._modules[name]
    return None, "", None


def share_vision(target: Any, draft: Any) -> bool:
    """Replace the draft's vision tower by the target's if they are equal; True if it was.

    Equal means the same class, configuration, device and weights.
    """
    holder, name, other = find_tower(draft)
    tower = find_tower(target)[2]
    if tower is None or type(tower) is not type(other):
        return False
    if tower.config.to_diff_dict() != other.config.to_diff_dict():
        return False
    ours, drafts = tower.state_dict(), other.state_dict()
    if any(value.device != drafts[key].device for key, value in ours.items() if key in drafts):
        return False
    if not _same(ours, drafts):
        return False
    setattr(holder, name, tower)
    return True

"""A picture is encoded once when draft and target share one vision tower (as in Spec-LLaVA)."""

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
    """Records what the shared tower computes for the target and replays it to the draft.

    Towers are shared when both models hold the *same module object*, which is how the loader
    leaves a pair whose towers are equal. Otherwise both contexts do nothing.
    """

    def __init__(self, target: Any, draft: Any) -> None:
        self._calls: list[_Call] = []
        self._holder, self._name = find_tower(draft)
        holder, name = find_tower(target)
        mine = getattr(holder, name, None) if holder is not None else None
        theirs = getattr(self._holder, self._name, None) if self._holder is not None else None
        self._tower: nn.Module | None = mine if mine is theirs else None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """While open, keep the tower's inputs and outputs; they are dropped at the end."""
        if self._tower is None:
            yield
            return

        def keep(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            # Callers may rewrite the output's fields in place, so the record is a copy of its own.
            self._calls.append(_Call(args, kwargs, copy.copy(output)))

        handle = self._tower.register_forward_hook(keep, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
            self._calls.clear()

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """While open, the draft gets recorded outputs for inputs that the target has encoded."""
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
    """Answers a known call from the record, any other by the tower itself."""

    def __init__(self, tower: nn.Module, calls: list[_Call]) -> None:
        super().__init__()
        # In a tuple, so that torch does not take the tower for this module's own child.
        self._kept = (tower,)
        self._calls = calls

    @property
    def _tower(self) -> nn.Module:
        return self._kept[0]

    def __getattr__(self, name: str) -> Any:
        """What the model asks of its tower besides calling it, such as its dtype or config."""
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


def find_tower(model: Any) -> tuple[Any, str]:
    """The module that holds a vision tower and the tower's name there; (None, "") without one."""
    for holder in (getattr(model, "model", None), model):
        for name in TOWER_NAMES:
            if isinstance(holder, nn.Module) and name in holder._modules:
                return holder, name
    return None, ""


def share_vision(target: Any, draft: Any) -> bool:
    """Let ``draft`` hold the target's own vision tower if theirs are equal; True if it now does.

    Saves the memory of one tower, and the engine encodes a picture once for a shared one.
    """
    import torch

    from sage_core.models.shared_vision import find_tower

    theirs, name = find_tower(draft)
    mine, own_name = find_tower(target)
    if theirs is None or mine is None:
        return False
    tower, other = getattr(mine, own_name), getattr(theirs, name)
    if type(tower) is not type(other):
        return False
    if tower.config.to_diff_dict() != other.config.to_diff_dict():
        return False
    ours, drafts = tower.state_dict(), other.state_dict()
    if ours.keys() != drafts.keys():
        return False
    for key, value in ours.items():
        twin = drafts[key]
        if (value.shape, value.dtype, value.device) != (twin.shape, twin.dtype, twin.device):
            return False
        if not torch.equal(value, twin):
            return False
    setattr(theirs, name, tower)
    return True

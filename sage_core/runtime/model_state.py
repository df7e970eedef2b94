"""What cached copies and recorded passes of a model depend on, compared at the start of each text.

PyTorch counts in-place changes of a parameter, but not writes through ``.data``, by which adapters
are merged, weights averaged and some optimizers work. And a recorded pass also depends on the
Python code that it left out: on which adapter is active, merged or scaled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

_OF_TORCH = frozenset(vars(nn.Module())) - {"training"}
"""Attributes that all modules have."""


def module_state(modules: Iterable[nn.Module]) -> list[Any]:
    """All submodules, and the values of their attributes that code may branch on or multiply by.

    Numbers, text, configurations, and containers of these are copied; other objects count by their
    identity. Two results are equal if nothing has changed. It takes microseconds a module.
    """
    seen: set[int] = set()
    return [
        (id(module), type(module), *_attributes(module, seen))
        for one in modules
        for module in one.modules()
    ]


def _attributes(owner: Any, seen: set[int]) -> Iterator[Any]:
    for name, value in vars(owner).items():
        if name not in _OF_TORCH:
            yield name, _copied(value, seen)


def _copied(value: Any, seen: set[int]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):  # a pass that reads one that is no parameter is not recorded
        return Tensor
    if isinstance(value, dict):
        return [(key, _copied(one, seen)) for key, one in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [_copied(one, seen) for one in value]
    if isinstance(value, PreTrainedConfig) or is_dataclass(value):
        if id(value) in seen:
            return id(value)
        seen.add(id(value))
        return [id(value), *_attributes(value, seen)]
    return id(value)


def storage_state(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Address and count of in-place changes of each tensor; inference tensors have no counter."""
    return [(one.data_ptr(), 0 if one.is_inference() else one._version) for one in tensors]


def weight_state(modules: Iterable[nn.Module]) -> list[Any]:
    """Addresses and values of all parameters, which are read once or twice for that."""
    weights = [weight for module in modules for weight in module.parameters()]
    plain = [weight for weight in weights if type(weight) is nn.Parameter and not weight.is_meta]
    return [*map(id, weights), *storage_state(plain), *map(checksum, plain)]


@torch.no_grad()
def checksum(weight: Tensor) -> tuple[int, int]:
    """Sums over all elements as integers modulo 2**64, weighted by row and by column.

    Any change of one element changes both, an exchange of two at least one of them. It costs what
    reading the matrix twice costs: as much as a pass or two over one token.
    """
    rows = weight.detach().reshape(-1, weight.shape[-1] if weight.dim() else 1)
    wide = rows.stride(-1) == 1 and rows.shape[-1] * rows.element_size() % 8 == 0
    bits = rows.view(torch.int64 if wide and rows.is_contiguous() else _BITS[rows.element_size()])
    by_row, by_column = (_weighted(bits.sum(dim=dim, dtype=torch.int64)) for dim in (1, 0))
    return by_row, by_column


_BITS = MappingProxyType({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64})
"""Integers by their bytes."""


def _weighted(sums: Tensor) -> int:
    # Mixed first, or exchanged signs would cancel out: odd multipliers differ by even numbers.
    mixed = (sums ^ (sums >> 29)) * _ODD
    mixed = mixed ^ (mixed >> 32)
    return int((mixed * torch.arange(1, 2 * len(sums), 2, device=sums.device)).sum())


_ODD = 0x1B873593CC9E2D51

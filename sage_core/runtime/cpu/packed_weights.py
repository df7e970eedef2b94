"""Packed weights: copies of linear layers' weights in a layout that is fast for few tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sage_core.runtime.cpu.weight_layouts import Forward, Layout, fastest
from sage_core.runtime.model_state import checksum, storage_state

MAX_BYTES = 1 << 30
"""Most bytes of packed weights of one model."""

LayoutChoice = Callable[[nn.Linear], Layout | None]
"""The layout of a layer's copy; None for no copy."""


class PackedWeights:
    """Packed weights of one model's linear layers.

    Args:
        limit: in bytes; if all layers would take more, none are packed.
        choose: the layout of each layer.
    """

    def __init__(self, limit: int, choose: LayoutChoice = fastest) -> None:
        self._limit = limit
        self._choose = choose
        self._forwards: dict[nn.Linear, Forward] = {}
        self._made_of: list[Any] = []
        self._sums: list[tuple[int, int]] = []

    def __bool__(self) -> bool:
        """Whether any layer is packed."""
        return bool(self._forwards)

    @property
    def weights(self) -> list[Tensor]:
        """The copies themselves."""
        return [forward.args[0] for forward in self._forwards.values()]

    def refresh(self, modules: Sequence[nn.Module]) -> int:
        """Pack the layers in ``modules`` again if their weights have changed, whoever wrote them.

        Returns the number of packed layers. Shapes for which no layout is faster are not packed.
        """
        layers = [layer for module in modules for layer in _layers(module)]
        biases = [id(layer.bias) for layer in layers]
        weights = storage_state(layer.weight for layer in layers)
        made_of = [*zip(map(id, layers), weights, biases, strict=True)]
        if made_of != self._made_of or self._checksums() != self._sums:
            self._made_of, self._forwards = made_of, {}
            if sum(layer.weight.nbytes for layer in layers) <= self._limit:
                self._forwards = dict(self._copies(layers))
            self._sums = self._checksums()
        return len(self._forwards)

    def _checksums(self) -> list[tuple[int, int]]:
        """Of the packed layers' weights as they are now: all are read for that."""
        return [checksum(layer.weight) for layer in self._forwards]

    def _copies(self, layers: Sequence[nn.Linear]) -> Iterator[tuple[nn.Linear, Forward]]:
        for layer in layers:
            layout = self._choose(layer)
            if layout is not None:
                yield layer, layout(layer)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While open, the layers use the packed weights."""
        # Not by `Module.__setattr__`, which takes longer than the products of a small model.
        for layer, forward in self._forwards.items():
            layer.__dict__["forward"] = forward
        try:
            yield
        finally:
            for layer in self._forwards:
                layer.__dict__.pop("forward", None)


def _layers(module: nn.Module) -> list[nn.Linear]:
    """Plain float32 linear layers on the CPU; quantized ones have other types.

    A forward that someone has replaced stays in use.
    """
    linear = (layer for layer in module.modules() if type(layer) is nn.Linear)
    return [
        layer
        for layer in linear
        if is_plain_parameter(layer.weight)
        and layer.weight.dtype == torch.float32
        and "forward" not in layer.__dict__
    ]


def is_plain_parameter(weight: Tensor) -> bool:
    """Whether it is an ordinary parameter on the CPU, not a shard and not quantized."""
    return type(weight) is nn.Parameter and weight.device.type == "cpu"

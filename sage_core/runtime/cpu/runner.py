"""Passes over trees on a CPU, by copies of the weights that are laid out for a few rows.

A model's linear layers multiply by the copies only while a pass over several rows runs, and the
model is as it was between passes. `layouts` says which copies there are and when they are faster.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sage_core.runtime.cpu.traced_pass import Tapes
from sage_core.runtime.cpu.weight_layouts import Forward, Layout, fastest
from sage_core.runtime.runner import Runner

LIMIT = 1 << 30
"""Most bytes of copies for one model."""
Choice = Callable[[nn.Linear], Layout | None]
"""The layout of a layer's copy; None for no copy."""


class Packs:
    """The copies of one model's linear layers, made when they are first asked for.

    Args:
        limit: most bytes of copies; where all would take more, none are made.
        choose: which copies.
    """

    def __init__(self, limit: int, choose: Choice = fastest) -> None:
        self._limit = limit
        self._choose = choose
        self._forwards: dict[nn.Module, Forward] = {}
        self._made_of: list[tuple[int, int]] = []

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._forwards)

    @property
    def weights(self) -> list[Tensor]:
        """The copies themselves."""
        return [forward.args[0] for forward in self._forwards.values()]

    def refresh(self, modules: Sequence[nn.Module]) -> int:
        """Copy what has been changed since; gives the number of layers with a copy.

        ``modules`` are searched for layers. None are copied where they do not fit the limit, and
        no shape for which no layout is faster.
        """
        layers = [layer for module in modules for layer in _layers(module)]
        made_of = [(layer.weight.data_ptr(), _version(layer.weight)) for layer in layers]
        if made_of != self._made_of:
            self._made_of, self._forwards = made_of, {}
            if sum(layer.weight.nbytes for layer in layers) <= self._limit:
                self._forwards = dict(self._copies(layers))
        return len(self._forwards)

    def _copies(self, layers: Sequence[nn.Linear]) -> Iterator[tuple[nn.Module, Forward]]:
        for layer in layers:
            layout = self._choose(layer)
            if layout is not None:
                yield layer, layout(layer)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While open, the layers multiply by the copies."""
        # Past `Module.__setattr__`, which would cost more than the products of a small model.
        for layer, forward in self._forwards.items():
            layer.__dict__["forward"] = forward
        try:
            yield
        finally:
            for layer in self._forwards:
                layer.__dict__.pop("forward", None)


class PackedRunner(Runner):
    """A `Runner` whose passes are taped; those over several tokens multiply by packed weights."""

    def __init__(self, model: Any, packs: Packs, tapes: Tapes) -> None:
        super().__init__(model)
        self.way = "packed, taped" if packs else "taped"
        self._packs = packs
        self._tapes: Tapes | None = tapes

    @torch.inference_mode()
    def forward(
        self, tokens: Sequence[int], depths: Sequence[int], visible: np.ndarray, last: int = 0
    ) -> tuple[Tensor, Tensor]:
        if len(tokens) < 2:  # a product with one row is bound by memory, whatever the layout
            return super().forward(tokens, depths, visible, last)
        with self._packs.in_use():
            return super().forward(tokens, depths, visible, last)

    def _decode(self, **inputs: Any) -> Tensor:
        rows = int(inputs["input_ids"].shape[1])
        if self._tapes is None:
            return super()._decode(**inputs)
        return self._tapes.run(rows, inputs, self.cache, super()._decode)

    def watch(self) -> None:
        self._tapes = None


class PackedRunners:
    """Makes runners for `SpeculativeDecoder`, and keeps the copies from text to text.

    A model that is not on the CPU, or is shared with other processes, has plain runners.

    Args:
        limit: as for `Packs`, of each model.
        choose: as for `Packs`.
    """

    def __init__(self, limit: int = LIMIT, choose: Choice = fastest) -> None:
        self._limit = limit
        self._choose = choose
        self._packs: weakref.WeakKeyDictionary[Any, Packs] = weakref.WeakKeyDictionary()
        self._tapes: weakref.WeakKeyDictionary[Any, Tapes] = weakref.WeakKeyDictionary()

    def __call__(self, model: Any) -> Runner:
        if not all(_plain(weight) for weight in model.parameters()):
            return Runner(model)
        packs = self.packs(model)
        return PackedRunner(model, packs, self.tapes(model, packs))

    def tapes(self, model: Any, packs: Packs) -> Tapes:
        """Repeatable passes through a model's decoder and what is around it, as they are now."""
        tapes = self._tapes.setdefault(model, Tapes(model.get_decoder().config))
        tapes.refresh(model, packs.weights)
        return tapes

    def packs(self, model: Any, modules: Sequence[nn.Module] | None = None) -> Packs:
        """The copies of a model's layers as they are now; of those in ``modules``, if given."""
        packs = self._packs.setdefault(model, Packs(self._limit, self._choose))
        packs.refresh(modules or [model.get_decoder(), model.get_output_embeddings()])
        return packs


def _layers(module: nn.Module) -> list[nn.Linear]:
    """Plain float32 linear layers on the CPU; quantized ones are of types of their own."""
    return [
        layer
        for layer in module.modules()
        if type(layer) is nn.Linear and _plain(layer.weight) and layer.weight.dtype == torch.float32
    ]


def _plain(weight: Tensor) -> bool:
    """Whether it is an ordinary parameter on the CPU, not a part of one or a quantized one."""
    return type(weight) is nn.Parameter and weight.device.type == "cpu"


def _version(tensor: Tensor) -> int:
    """Counts changes in place; inference tensors have no count and do not change."""
    return 0 if tensor.is_inference() else tensor._version

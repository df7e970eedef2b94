"""Passes over trees on a CPU, with weights laid out as oneDNN multiplies them best.

PyTorch's products of a weight with the 2 to 64 rows of a tree pass may reach a half or less of what
the processor can do, and oneDNN, which comes with PyTorch, does better from a copy of the weight in
its own layout. That is so on some processors and for some sizes, and not on others: both are timed,
and copies made where they save a tenth. A model's linear layers use them only while a pass runs,
and the model is as it was between passes. Sums are taken in another order, as they are in any pass
over more than one row.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import groupby
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sage_core.runner import Runner
from sage_core.taped import Tapes

LIMIT = 1 << 30
"""Most bytes of copies for one model."""
_ROWS = 16  # that the layout is made for; it serves all numbers of rows
_TRIED = 2  # layers of a shape that are timed
_SIZES, _REPEATS, _SAVED = (4, 12, 24), 4, 0.1
Products = Mapping[nn.Linear, "partial[Tensor]"]
"""Layers, with what multiplies by the copy of each one's weight."""


@torch.inference_mode()
def faster(products: Products) -> bool:
    """Whether copies save a tenth of the time that the layers, all of one shape, take without."""

    def seconds(multiply: Callable[[nn.Linear, Tensor], Tensor], rows: int) -> float:
        x = torch.zeros(1, rows, next(iter(products)).in_features)
        started = perf_counter()
        for layer in products:
            multiply(layer, x)
        return perf_counter() - started

    ways: list[Callable[[nn.Linear, Tensor], Tensor]] = [
        lambda layer, x: products[layer](x),
        lambda layer, x: nn.functional.linear(x, layer.weight, layer.bias),
    ]
    copied, plain = 0.0, 0.0
    for rows in _SIZES:
        # In turn, and the least of several: another process only ever adds time.
        times = [[seconds(way, rows) for way in ways] for _ in range(_REPEATS)]
        copied += min(first for first, _ in times)
        plain += min(second for _, second in times)
    return copied < (1 - _SAVED) * plain


class Packs:
    """The copies of one model's linear layers, made when they are first asked for.

    Args:
        limit: most bytes of copies; where all would take more, none are made.
        worth: whether copies are wanted, given some layers of one shape with theirs.
    """

    def __init__(self, limit: int, worth: Callable[[Products], bool] = faster) -> None:
        self._limit = limit
        self._worth = worth
        self._forwards: dict[nn.Module, partial[Tensor]] = {}
        self._made_of: list[tuple[int, int]] = []

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._forwards)

    @property
    def weights(self) -> list[Tensor]:
        """The copies themselves."""
        return [forward.args[1] for forward in self._forwards.values()]

    def refresh(self, modules: Sequence[nn.Module]) -> int:
        """Copy what has been changed since; gives the number of layers with a copy.

        ``modules`` are searched for layers. None are copied where they do not fit the limit, where
        oneDNN is missing, or where it is no faster.
        """
        layers = [layer for module in modules for layer in _layers(module)]
        made_of = [(layer.weight.data_ptr(), _version(layer.weight)) for layer in layers]
        if made_of != self._made_of:
            self._made_of, self._forwards = made_of, {}
            if sum(layer.weight.nbytes for layer in layers) <= self._limit:
                self._forwards = dict(self._copies(layers))
        return len(self._forwards)

    def _copies(self, layers: Sequence[nn.Linear]) -> Iterator[tuple[nn.Module, partial[Tensor]]]:
        shapes = groupby(sorted(layers, key=_shape), key=_shape)
        for alike in [list(group) for _, group in shapes]:
            tried = _packed(alike[:_TRIED])
            if tried and self._worth(tried):
                yield from (tried | _packed(alike[_TRIED:])).items()

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

    A model that is not on the CPU has plain runners.

    Args:
        limit: as for `Packs`, of each model.
        worth: as for `Packs`.
    """

    def __init__(self, limit: int = LIMIT, worth: Callable[[Products], bool] = faster) -> None:
        self._limit = limit
        self._worth = worth
        self._packs: weakref.WeakKeyDictionary[Any, Packs] = weakref.WeakKeyDictionary()
        self._tapes: weakref.WeakKeyDictionary[Any, Tapes] = weakref.WeakKeyDictionary()

    def __call__(self, model: Any) -> Runner:
        if any(weight.device.type != "cpu" for weight in model.parameters()):
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
        packs = self._packs.setdefault(model, Packs(self._limit, self._worth))
        packs.refresh(modules or [model.get_decoder(), model.get_output_embeddings()])
        return packs


def _layers(module: nn.Module) -> list[nn.Linear]:
    """Plain float32 linear layers on the CPU; quantized ones are of types of their own."""
    return [
        layer
        for layer in module.modules()
        if type(layer) is nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
    ]


def _shape(layer: nn.Linear) -> tuple[int, int, bool]:
    return layer.out_features, layer.in_features, layer.bias is not None


def _packed(layers: Sequence[nn.Linear]) -> dict[nn.Linear, partial[Tensor]]:
    """Each layer's forward by a copy of its weight; none where this PyTorch has no oneDNN."""
    forwards: dict[nn.Linear, partial[Tensor]] = {}
    # Operators that PyTorch's own compiler uses; they are found by name where they exist.
    with suppress(AttributeError, RuntimeError, NotImplementedError), torch.no_grad():
        reorder = torch.ops.mkldnn._reorder_linear_weight
        multiply = torch.ops.mkldnn._linear_pointwise
        for layer in layers:
            weight = reorder(layer.weight.detach(), _ROWS)
            forwards[layer] = partial(_linear, multiply, weight, layer.bias)
        for layer in layers[:1]:
            forwards[layer](torch.zeros(1, 2, layer.in_features))
        return forwards
    return {}


def _linear(multiply: Any, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    out: Tensor = multiply(x, weight, bias, "none", [], "")
    return out


def _version(tensor: Tensor) -> int:
    """Counts changes in place; inference tensors have no count and do not change."""
    return 0 if tensor.is_inference() else tensor._version

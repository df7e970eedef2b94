"""Copies of a linear layer's weight, laid out so that it multiplies a few rows faster.

PyTorch's products of a weight with the 2 to 64 rows of a tree pass may reach a half or less of what
the processor can do. From a copy in its own layout oneDNN, which comes with PyTorch, does better on
some processors, and on others the same product does by columns instead of rows; which one, and
whether any does, depends on the sizes too. So all are timed. Sums may be taken in another order, as
in any pass over more than one row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

Forward = partial[Tensor]
"""What multiplies rows by a copy, which is its first argument; in place of `nn.Linear.forward`."""
Layout = Callable[[nn.Linear], Forward]

_ROWS = 16  # that oneDNN's layout is made for; it serves all numbers of rows
_SIZES, _REPEATS, _SAVED = (4, 16), 3, 0.1
_LAYERS, _LARGEST = 2, 8192  # what is timed: so many layers, of at most so many inputs and outputs


@torch.no_grad()
def by_onednn(layer: nn.Linear) -> Forward:
    """In oneDNN's layout, by the operators that PyTorch's own compiler uses.

    Raises:
        AttributeError, RuntimeError: this PyTorch has no oneDNN, or not for this processor.
    """
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _ROWS)
    return partial(_by_onednn, weight, layer.bias, torch.ops.mkldnn._linear_pointwise)


@torch.no_grad()
def by_columns(layer: nn.Linear) -> Forward:
    """With the weights of one input, not of one output, behind one another in memory."""
    weight = layer.weight.detach().t().contiguous().t()
    return partial(_linear, weight, layer.bias)


LAYOUTS: tuple[Layout, ...] = (by_onednn, by_columns)


def fastest(layer: nn.Linear) -> Layout | None:
    """The layout by which layers of this one's shape are fastest; None where none saves a tenth.

    A shape is timed once in a process, on weights of its own.
    """
    shape = layer.out_features, layer.in_features, layer.bias is not None
    return _timed(*shape, torch.get_num_threads())


@cache
@torch.inference_mode()
def _timed(outputs: int, inputs: int, bias: bool, threads: int) -> Layout | None:
    sizes = min(inputs, _LARGEST), min(outputs, _LARGEST)
    layers = [_layer(*sizes, bias) for _ in range(_LAYERS)]
    known: list[tuple[Layout, list[Forward]]] = []
    for layout in LAYOUTS:
        with suppress(AttributeError, RuntimeError):
            forwards = [layout(layer) for layer in layers]
            forwards[0](_rows(2, layers[0].in_features))
            known.append((layout, forwards))
    plain = [partial(_linear, layer.weight, layer.bias) for layer in layers]
    seconds = _seconds([plain, *(forwards for _, forwards in known)], layers[0].in_features)
    best = min(range(1, len(seconds)), key=lambda i: seconds[i], default=0)
    return known[best - 1][0] if seconds[best] < (1 - _SAVED) * seconds[0] else None


def _layer(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    """One that no random numbers were drawn for: those are the user's."""
    layer = nn.utils.skip_init(
        nn.Linear, inputs, outputs, bias=bias, device="cpu", dtype=torch.float32
    )
    for weight in layer.parameters():
        weight.fill_(0.01)
    return layer


def _seconds(ways: Sequence[Sequence[Forward]], features: int) -> list[float]:
    totals = [0.0] * len(ways)
    for rows in _SIZES:
        x = _rows(rows, features)
        least = [float("inf")] * len(ways)
        for _ in range(_REPEATS):  # in turn, and the least: other processes only ever add time
            for number, forwards in enumerate(ways):
                started = perf_counter()
                for forward in forwards:
                    forward(x)
                least[number] = min(least[number], perf_counter() - started)
        totals = [total + one for total, one in zip(totals, least, strict=True)]
    return totals


def _rows(count: int, features: int) -> Tensor:
    return torch.zeros((1, count, features), device="cpu", dtype=torch.float32)


def _by_onednn(weight: Tensor, bias: Tensor | None, multiply: Any, x: Tensor) -> Tensor:
    out: Tensor = multiply(x, weight, bias, "none", [], "")
    return out


def _linear(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return nn.functional.linear(x, weight, bias)

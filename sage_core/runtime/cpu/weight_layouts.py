"""Layouts of a linear layer's weight for products with few tokens.

PyTorch's products with the 2 to 64 tokens of a tree pass may reach half of a processor's speed or
less. oneDNN's own layout is faster on some processors and sizes, a column-major copy on others, so
all are timed. Sums may be in another order, as in any pass over more than one token.
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
"""Replaces `nn.Linear.forward`; the copy of the weight is its first argument."""
Layout = Callable[[nn.Linear], Forward]

_ROWS = 16  # tokens that oneDNN's layout is optimized for; it works for any number
_SIZES, _REPEATS, _SAVED = (4, 16), 3, 0.1
_LAYERS, _LARGEST = 2, 8192  # timed are so many layers, of at most so many inputs and outputs


@torch.no_grad()
def by_onednn(layer: nn.Linear) -> Forward:
    """oneDNN's layout, by the operators that PyTorch's compiler uses.

    Raises:
        AttributeError, RuntimeError: this PyTorch has no oneDNN, or not for this processor.
    """
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _ROWS)
    return partial(_by_onednn, weight, layer.bias, torch.ops.mkldnn._linear_pointwise)


@torch.no_grad()
def by_columns(layer: nn.Linear) -> Forward:
    """Column-major: the weights of one input are contiguous."""
    weight = layer.weight.detach().t().contiguous().t()
    return partial(_linear, weight, layer.bias)


LAYOUTS: tuple[Layout, ...] = (by_onednn, by_columns)


def fastest(layer: nn.Linear) -> Layout | None:
    """The fastest layout for layers of this shape; None if none saves a tenth of the time.

    A shape is timed once in a process, on separate weights.
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
    """A layer made without drawing random numbers, which would change the user's state."""
    layer = nn.utils.skip_init(
        nn.Linear, inputs, outputs, bias=bias, device="cpu", dtype=torch.float32
    )
    for weight in layer.parameters():
        weight.fill_(0.01)
    return layer


def _seconds(variants: Sequence[Sequence[Forward]], features: int) -> list[float]:
    totals = [0.0] * len(variants)
    for rows in _SIZES:
        x = _rows(rows, features)
        least = [float("inf")] * len(variants)
        for _ in range(_REPEATS):  # alternating, and the minimum: other processes only add time
            for number, forwards in enumerate(variants):
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

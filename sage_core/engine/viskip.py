"""ViSkip: draft nothing while the last token leans on the picture (MMSpec, arXiv 2603.14989).

What the target reads off a picture, a small draft guesses badly. So where the row that the next
tree would begin behind gave much of its attention to visual tokens, the step drafts nothing. The
output stays the target's own: it is the shape of trees that changes, and it depends on committed
text alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sage_core.errors import UnsupportedError
from sage_core.runtime.attention.observe import observe_attention
from sage_core.runtime.runner import Runner
from sage_core.trees.policy import PlannerWrapper, TreePlanner
from sage_core.trees.steps import Shape, Step
from sage_core.trees.tree import TokenTree

__all__ = ["ViSkipPlanner", "VisualAttention"]

_LAYERS = 4
"""Layers that are looked at, spread over the depth: each costs a few small operations a step."""


class VisualAttention:
    """How much of one row's attention the target gave to the visual tokens.

    Queries are noted as the target's layers make them. Keys need not be: once a step is committed,
    what the row saw is the committed text and nothing else, which is what the cache then holds. So
    no mask is needed, and no attention matrix is made but that of one row.

    Args:
        target: runs the model that is watched, with PyTorch's scaled dot-product attention.
        visual: int64 (n,) positions of the visual tokens.

    Raises:
        UnsupportedError: several texts share the target's passes.
    """

    def __init__(self, target: Runner, visual: Tensor) -> None:
        if not target.watchable:
            raise UnsupportedError(
                "viskip watches one text at a time: leave it out, or decode without batches"
            )
        target.watch()
        self._target = target
        self._visual = visual
        count = len(target.decoder.layers)
        self._layers = sorted({(2 * i + 1) * count // (2 * _LAYERS) for i in range(_LAYERS)})
        self._queries: dict[int, tuple[Tensor, float]] = {}
        self._reading = True

    def over(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The ``steps``, each made while the target is watched; between them nothing is."""
        while True:
            with ExitStack() as stack:
                for index in self._layers:
                    layer = self._target.decoder.layers[index]
                    stack.enter_context(observe_attention(layer, partial(self._note, index)))
                step = next(steps, None)
            if step is None:
                return
            self._reading = False
            yield step

    def _note(self, layer: int, query: Tensor, _key: Tensor, scale: float | None) -> None:
        rows = query[0].transpose(0, 1)  # (n, heads, size)
        if self._reading:  # a prompt may be long, and only its last row is asked about
            rows = rows[-1:].clone()
        self._queries[layer] = rows, scale if scale is not None else query.shape[-1] ** -0.5

    @torch.inference_mode()
    def share(self, row: int) -> float:
        """The share of row ``row`` of the target's latest pass: the mean over heads and layers.

        To be asked when the path up to that row is committed and nothing else is in the cache.

        Raises:
            UnsupportedError: no attention was seen.
        """
        if not self._queries:
            raise UnsupportedError(
                "viskip: the attention of this model cannot be seen: load it with "
                "attn_implementation='sdpa', or leave viskip out"
            )
        shares = []
        layers: Any = self._target.cache.layers
        for layer, (rows, scale) in self._queries.items():
            keys = layers[layer].keys[0, :, : self._target.committed]
            query = rows[row].unflatten(0, (keys.shape[0], -1))  # (key heads, group, size)
            weights = (query @ keys.transpose(1, 2)).float().mul_(scale).softmax(dim=-1)
            shares.append(weights[..., self._visual.to(weights.device)].sum(dim=-1).mean().cpu())
        return float(torch.stack(shares).mean())


class ViSkipPlanner(PlannerWrapper):
    """A policy's shaper that rests while the target looks at the picture.

    The policy does not hear of the steps that it was not asked about.

    Args:
        shaper: the policy's own.
        gaze: on the same text.
        least: the share from which on nothing is drafted.
    """

    def __init__(self, planner: TreePlanner, gaze: VisualAttention, least: float) -> None:
        super().__init__(planner)
        self._gaze = gaze
        self._least = least
        self._row = -1  # behind the prompt: its last row
        self._skipped = False

    def plan(self) -> Shape:
        share = self._gaze.share(self._row)
        self._skipped = share >= self._least
        looking = f"{share:.2f} of the attention on the picture"
        if self._skipped:
            return Shape(note=f"viskip: {looking}")
        shape = self._planner.plan()
        return replace(shape, note=f"{shape.note}; {looking}".removeprefix("; "))

    def observe(self, tree: TokenTree, nodes: Sequence[int], tokens: Sequence[int]) -> None:
        self._row = nodes[-1] + 1 if nodes else 0
        if not self._skipped:
            self._planner.observe(tree, nodes, tokens)

"""The share of the target's attention on visual tokens, and ViSkip's planner."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sage_core.engine.loop import Decoding
from sage_core.errors import UnsupportedError
from sage_core.runtime.attention.observe import observe_attention
from sage_core.runtime.passes import passes_until_event
from sage_core.runtime.runner import Runner
from sage_core.trees.policy import PlannerWrapper, TreePlanner
from sage_core.trees.steps import Shape, Step
from sage_core.trees.tree import TokenTree

__all__ = ["ViSkipPlanner", "VisualAttention"]

_LAYERS = 4
"""Observed layers, spread over the depth; each costs a few small operations per step."""


class VisualAttention:
    """The attention of the target's latest committed token to the visual tokens.

    Queries are recorded in the target's passes; keys are read from the cache after the commit, when
    it contains what the token attended to. So one row of attention is computed, without a mask.

    Args:
        target: a model with PyTorch's scaled dot-product attention.
        visual: int64 (n,) positions of the visual tokens.
    """

    def __init__(self, target: Runner, visual: Tensor) -> None:
        target.observe_layers()
        self._target = target
        self._visual = visual
        count = len(target.decoder.layers)
        self._layers = sorted({(2 * i + 1) * count // (2 * _LAYERS) for i in range(_LAYERS)})
        self._queries: dict[int, tuple[Tensor, float]] = {}
        self._row = -1
        """The index in the latest pass of the token before the latest committed one."""
        self._prefill = True

    def around(self, decoding: Decoding) -> Decoding:
        """The decoding with its layers observed during steps, not between them."""
        while True:
            with ExitStack() as stack:
                for index in self._layers:
                    layer = self._target.decoder.layers[index]
                    stack.enter_context(observe_attention(layer, partial(self._record, index)))
                step: Step | None = yield from passes_until_event(decoding)
            if step is None:
                return
            if not step.is_prefill:
                self._row = step.accepted[-1] + 1 if step.accepted else 0
            self._prefill = False
            yield step

    def _record(self, layer: int, query: Tensor, _key: Tensor, scale: float | None) -> None:
        rows = query[0].transpose(0, 1)  # (n, heads, size)
        if self._prefill:  # only the last query of a prompt is used
            rows = rows[-1:].clone()
        self._queries[layer] = rows, scale if scale is not None else query.shape[-1] ** -0.5

    @torch.inference_mode()
    def share(self) -> float:
        """The share of the attention on visual tokens, the mean over heads and observed layers.

        Call it between steps, when the cache contains committed text only.

        Raises:
            UnsupportedError: the model's attention cannot be observed.
        """
        if not self._queries:
            raise UnsupportedError(
                "viskip: the attention of this model cannot be observed: load it with "
                "attn_implementation='sdpa', or leave viskip out"
            )
        shares = []
        layers: Any = self._target.cache.layers
        for layer, (rows, scale) in self._queries.items():
            keys = layers[layer].keys[0, :, : self._target.committed]
            query = rows[self._row].unflatten(0, (keys.shape[0], -1))  # (key heads, group, size)
            weights = (query @ keys.transpose(1, 2)).float().mul_(scale).softmax(dim=-1)
            shares.append(weights[..., self._visual.to(weights.device)].sum(dim=-1).mean().cpu())
        return float(torch.stack(shares).mean())


class ViSkipPlanner(PlannerWrapper):
    """Drafts nothing while at least the share ``least`` of attention is on visual tokens.

    The wrapped planner does not observe these steps.
    """

    def __init__(self, planner: TreePlanner, attention: VisualAttention, least: float) -> None:
        super().__init__(planner)
        self._attention = attention
        self._least = least
        self._skipped = False

    def plan(self) -> Shape:
        share = self._attention.share()
        self._skipped = share >= self._least
        note = f"{share:.2f} of the attention on the image"
        if self._skipped:
            return Shape(note=f"viskip: {note}")
        shape = self._planner.plan()
        return replace(shape, note=f"{shape.note}; {note}".removeprefix("; "))

    def observe(self, tree: TokenTree, nodes: Sequence[int], tokens: Sequence[int]) -> None:
        if not self._skipped:
            self._planner.observe(tree, nodes, tokens)

"""Passes over trees on a CPU, by copies of the weights that are laid out for a few rows.

A model's linear layers multiply by the copies only while a pass over several rows runs, and the
model is as it was between passes. `layouts` says which copies there are and when they are faster.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sage_core.runtime.cpu.packed_weights import LIMIT, LayoutChoice, PackedWeights, _plain
from sage_core.runtime.cpu.traced_pass import Tapes
from sage_core.runtime.cpu.weight_layouts import fastest
from sage_core.runtime.runner import Runner


class CpuRunner(Runner):
    """A `Runner` whose passes are taped; those over several tokens multiply by packed weights."""

    def __init__(self, model: Any, packs: PackedWeights, tapes: Tapes) -> None:
        super().__init__(model)
        self.backend = "packed, taped" if packs else "taped"
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


class CpuRunners:
    """Makes runners for `SpeculativeDecoder`, and keeps the copies from text to text.

    A model that is not on the CPU, or is shared with other processes, has plain runners.

    Args:
        limit: as for `PackedWeights`, of each model.
        choose: as for `PackedWeights`.
    """

    def __init__(self, limit: int = LIMIT, choose: LayoutChoice = fastest) -> None:
        self._limit = limit
        self._choose = choose
        self._packs: weakref.WeakKeyDictionary[Any, PackedWeights] = weakref.WeakKeyDictionary()
        self._tapes: weakref.WeakKeyDictionary[Any, Tapes] = weakref.WeakKeyDictionary()

    def __call__(self, model: Any) -> Runner:
        if not all(_plain(weight) for weight in model.parameters()):
            return Runner(model)
        packs = self.packs(model)
        return CpuRunner(model, packs, self.tapes(model, packs))

    def tapes(self, model: Any, packs: PackedWeights) -> Tapes:
        """Repeatable passes through a model's decoder and what is around it, as they are now."""
        tapes = self._tapes.setdefault(model, Tapes(model.get_decoder().config))
        tapes.refresh(model, packs.weights)
        return tapes

    def packs(self, model: Any, modules: Sequence[nn.Module] | None = None) -> PackedWeights:
        """The copies of a model's layers as they are now; of those in ``modules``, if given."""
        packs = self._packs.setdefault(model, PackedWeights(self._limit, self._choose))
        packs.refresh(modules or [model.get_decoder(), model.get_output_embeddings()])
        return packs

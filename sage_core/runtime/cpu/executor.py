"""Passes on a CPU: traced where the model allows it, and multiplied by packed weights.

A model's linear layers multiply by packed copies only while a pass over several tokens runs, and
the model is as it was between passes. `weight_layouts` says which copies there are and when they
are faster.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from sage_core.runtime.cpu.packed_weights import (
    MAX_BYTES,
    LayoutChoice,
    PackedWeights,
    is_plain_parameter,
)
from sage_core.runtime.cpu.traced_pass import TracedPasses
from sage_core.runtime.cpu.weight_layouts import fastest
from sage_core.runtime.tree_runner import EagerExecutor, Executor, Outputs, PassRequest, TreeRunner


class CpuExecutor(EagerExecutor):
    """Traced passes; those over several tokens multiply by packed weights.

    Args:
        packed: the copies of the model's weights; perhaps none.
        traced: the traced passes; None calls the model's own modules.
    """

    def __init__(self, packed: PackedWeights, traced: TracedPasses | None) -> None:
        self.packed = packed
        self.traced = traced
        parts = ["packed weights"] * bool(packed) + ["traced"] * (traced is not None)
        self.name = ", ".join(parts) or "eager"

    def run(self, runner: TreeRunner, request: PassRequest) -> Outputs:
        call = None if self.traced is None else self.traced.run
        if len(request.tokens) < 2:
            return runner.run_eagerly(request, call)
        with self.packed.in_use():
            return runner.run_eagerly(request, call)

    def multiplying(self, tokens: int) -> AbstractContextManager[None]:
        # A product with one row is bound by memory, whatever the layout.
        return self.packed.in_use() if tokens > 1 else nullcontext()

    def observable(self) -> Executor:
        return CpuExecutor(self.packed, None)


class CpuBackend:
    """Makes executors, and keeps packed weights and traces from text to text, by model.

    A model that is not on the CPU, or is shared with other processes, has eager passes.

    Args:
        max_bytes: most bytes of copies of each model's weights.
        choose: the layout of each layer's copy.
    """

    batches = True

    def __init__(self, max_bytes: int = MAX_BYTES, choose: LayoutChoice = fastest) -> None:
        self._max_bytes = max_bytes
        self._choose = choose
        self._packed: weakref.WeakKeyDictionary[Any, PackedWeights] = weakref.WeakKeyDictionary()
        self._traced: weakref.WeakKeyDictionary[Any, TracedPasses] = weakref.WeakKeyDictionary()

    def executor(self, model: Any, modules: Sequence[nn.Module] | None = None) -> Executor:
        if not all(is_plain_parameter(weight) for weight in model.parameters()):
            return EagerExecutor()
        packed = self._packed.setdefault(model, PackedWeights(self._max_bytes, self._choose))
        packed.refresh(modules or [model.get_decoder(), model.get_output_embeddings()])
        traced = self._traced.setdefault(model, TracedPasses(model.get_decoder().config))
        traced.refresh(model, packed.weights)
        return CpuExecutor(packed, traced)

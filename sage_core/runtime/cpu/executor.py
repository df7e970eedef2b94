"""Passes on a CPU: traced if the model allows it, and with packed weights.

Linear layers use packed copies only while a pass over several tokens runs; between passes the model
is unchanged.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from sage_core.models.parts import decoder_of
from sage_core.runtime.cpu.packed_weights import (
    MAX_BYTES,
    LayoutChoice,
    PackedWeights,
    is_plain_parameter,
)
from sage_core.runtime.cpu.traced_pass import TracedPasses
from sage_core.runtime.cpu.weight_layouts import fastest
from sage_core.runtime.model_lock import ModelLock
from sage_core.runtime.tree_runner import EagerExecutor, Executor, Outputs, PassRequest, TreeRunner


class CpuExecutor(EagerExecutor):
    """Traced passes, with packed weights if they are over several tokens.

    Args:
        packed: copies of the model's weights.
        traced: its traced passes; None: the model's own modules are called.
    """

    def __init__(self, packed: PackedWeights, traced: TracedPasses | None) -> None:
        self.packed = packed
        self.traced = traced
        parts = ["packed weights"] * bool(packed) + ["traced"] * (traced is not None)
        self.name = ", ".join(parts) or "eager"

    def run(self, runner: TreeRunner, request: PassRequest) -> Outputs:
        call = None if self.traced is None else self.traced.run
        with self.multiplying(len(request.tokens)):
            return runner.run_eagerly(request, call)

    def multiplying(self, tokens: int) -> AbstractContextManager[None]:
        # A product with one vector is bound by memory, whatever the layout.
        return self.packed.in_use() if tokens > 1 else nullcontext()

    def observable(self) -> Executor:
        return CpuExecutor(self.packed, None)


class CpuBackend:
    """Makes executors, and keeps packed weights and traces between texts, by model.

    A model that is not on the CPU, or is sharded over processes, has eager passes.

    Args:
        max_bytes: most bytes of packed weights of each model.
        choose: the layout of each layer's copy.
    """

    batches = True

    def __init__(self, max_bytes: int = MAX_BYTES, choose: LayoutChoice = fastest) -> None:
        self.lock = ModelLock()
        self._max_bytes = max_bytes
        self._choose = choose
        self._packed: weakref.WeakKeyDictionary[Any, PackedWeights] = weakref.WeakKeyDictionary()
        self._traced: weakref.WeakKeyDictionary[Any, TracedPasses] = weakref.WeakKeyDictionary()

    def executor(self, model: Any, modules: Sequence[nn.Module] | None = None) -> Executor:
        if not all(is_plain_parameter(weight) for weight in model.parameters()):
            return EagerExecutor()
        packed = self._packed.setdefault(model, PackedWeights(self._max_bytes, self._choose))
        modules = modules or [decoder_of(model), model.get_output_embeddings()]
        packed.refresh(modules)
        traced = self._traced.setdefault(model, TracedPasses(decoder_of(model).config))
        traced.refresh(model, packed.weights, modules)
        return CpuExecutor(packed, traced)

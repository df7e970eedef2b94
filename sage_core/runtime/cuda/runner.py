"""Passes whose shapes and addresses never change, captured as CUDA graphs and replayed.

An eager pass through a model of 28 layers launches some five hundred kernels, which takes the host
longer than the GPU. Here a pass over n nodes is one function of static device tensors
(`static_pass`): it is captured once for a few node counts and replayed for every tree, padded to
the next count. What changes from pass to pass (tokens, positions, bit words, the committed length
and the slot to write at) is copied to the device as one small tensor before a replay.

What cannot be captured runs eagerly with the same result, and `CudaGraphRunners.notes` says so.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_core.runtime.attention import MAX_COLUMNS, pack
from sage_core.runtime.cuda.graphs import COUNTS, Capture, CaptureRecord, Engine, Outputs
from sage_core.runtime.cuda.static_cache import StaticCache
from sage_core.runtime.kv_cache import TreeCache
from sage_core.runtime.runner import Runner


class CudaGraphRunner(Runner):
    """A `Runner` whose passes over few nodes are static, and captured where they can be."""

    backend = "captured"

    def __init__(self, model: Any, engine: Engine) -> None:
        super().__init__(model)
        self._engine = engine
        self._other_head: Callable[[Tensor], Tensor] | None = None

    def set_lm_head(self, head: Callable[[Tensor], Tensor]) -> None:
        super().set_lm_head(head)
        self._other_head = head

    @torch.inference_mode()
    def forward(
        self, tokens: Sequence[int], depths: Sequence[int], visible: np.ndarray, last: int = 0
    ) -> Outputs:
        n, columns = visible.shape
        rows = self._engine.rows(n)
        if not isinstance(self.cache, StaticCache):
            return super().forward(tokens, depths, visible, last)
        # Columns that every row sees, such as the root's, are to the mask what committed text is.
        common = int(visible.all(axis=0).cumprod().sum())
        if not rows or columns - common > MAX_COLUMNS:
            self._engine.note(f"a pass over {n} rows and {columns} tree columns: eager, too many")
            return super().forward(tokens, depths, visible, last)
        end = self.cache.length + rows  # padding is written too, and overwritten later
        if end > self.cache.capacity:
            self.cache.grow(end)
        start = self.committed + self._offset
        inputs, run = self._engine.pass_of(rows, self._other_head)
        inputs.fill(
            tokens,
            [start + d for d in depths],
            pack(visible[:, common:]),
            self.committed + common,
            self.cache.length,
        )
        logits, hidden = run()
        self.cache.advance(n)
        # Copies: drafts and records keep what a later replay would overwrite.
        return logits[n - last if last else 0 : n].clone(), hidden[:n].clone()

    def _new_cache(self, layers: int, capacity: int, shared: bool) -> TreeCache:
        if not shared:
            self._engine.note("eager passes: a model on several devices is not captured")
            return super()._new_cache(layers, capacity, shared)
        return self._engine.storage(layers, capacity + max(self._engine.counts))


class CudaGraphRunners:
    """Makes runners for `SpeculativeDecoder`, and keeps storage and graphs from text to text.

    A runner has an engine to itself until it is gone; two texts under way have one each.

    Args:
        counts: rows of the captured passes, ascending, at most 65.
        capture: how to record a pass; None: CUDA graphs where there is CUDA, else not at all.
        kernel: False: PyTorch's own attention also where the tree kernel runs.

    Raises:
        ValueError: counts that are not ascending numbers from 1 to 65.
    """

    def __init__(
        self,
        counts: Sequence[int] = COUNTS,
        capture: Capture | None = None,
        *,
        kernel: bool = True,
    ) -> None:
        if list(counts) != sorted(set(counts)) or not 1 <= counts[0] <= counts[-1] <= max(COUNTS):
            raise ValueError(f"captured passes have ascending row counts of 1 to 65: {counts}")
        self._counts = counts
        self._capture = capture
        self._kernel = kernel
        self._engines: list[Engine] = []
        self._free: list[Engine] = []

    def __call__(self, model: Any) -> CudaGraphRunner:
        engine = next((engine for engine in self._free if engine.model is model), None)
        if engine is None:
            engine = Engine(model, self._counts, self._capture, self._kernel)
            self._engines.append(engine)
        else:
            self._free.remove(engine)
        runner = CudaGraphRunner(model, engine)
        weakref.finalize(runner, self._free.append, engine)
        return runner

    @property
    def records(self) -> tuple[CaptureRecord, ...]:
        """What has been captured, or at least run, and what it took."""
        return tuple(record for engine in self._engines for record in engine.records)

    @property
    def notes(self) -> tuple[str, ...]:
        """What runs otherwise than it was meant to, and why; a line each."""
        return tuple(dict.fromkeys(note for engine in self._engines for note in engine.notes))

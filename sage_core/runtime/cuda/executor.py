"""Passes with static shapes and addresses, captured as CUDA graphs and replayed.

An eager pass through 28 layers launches about five hundred kernels, which takes the host longer
than the GPU needs to run them. Here a pass is a function of static device tensors
(`graphs.static_pass`), captured for a few token counts and replayed for every tree, padded to the
next count. Its inputs are copied to the device as one small tensor before a replay.

What cannot be captured runs eagerly with the same result; `CudaGraphBackend.notes` lists it.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from sage_core.errors import UnsupportedError
from sage_core.runtime.attention import MAX_COLUMNS, pack
from sage_core.runtime.cuda.graphs import COUNTS, Capture, CaptureRecord, GraphCache
from sage_core.runtime.cuda.static_cache import StaticCache
from sage_core.runtime.kv_cache import TreeCache
from sage_core.runtime.model_lock import ModelLock
from sage_core.runtime.tree_runner import EagerExecutor, Executor, Outputs, PassRequest, TreeRunner


class CudaGraphExecutor:
    """Static passes over few tokens, captured if possible; all others eagerly.

    Args:
        graphs: storage and captured passes, used by no other executor at the same time.
    """

    name = "CUDA graphs"

    def __init__(self, graphs: GraphCache) -> None:
        self._graphs = graphs

    def new_cache(self, layers: int, capacity: int, *, shared: bool) -> TreeCache:
        if not shared:
            self._graphs.note("eager passes: not captured on several devices, or with windows")
            return TreeCache(layers, capacity, shared=False)
        return self._graphs.storage(layers, capacity + max(self._graphs.counts))

    def run(self, runner: TreeRunner, request: PassRequest) -> Outputs:
        n, columns = request.visible.shape
        cache, rows = runner.cache, self._graphs.rows(n)
        if not isinstance(cache, StaticCache):
            return runner.run_eagerly(request)
        # Columns that all tokens attend to, such as the root's, are masked like committed text.
        common = int(request.visible.all(axis=0).cumprod().sum())
        if not rows or columns - common > MAX_COLUMNS:
            self._graphs.note(f"a pass over {n} rows and {columns} tree columns: eager, too many")
            return runner.run_eagerly(request)
        end = cache.length + rows  # padding is written too, and overwritten later
        if end > cache.capacity:
            cache.grow(end)
        inputs, replay = self._graphs.pass_of(rows, runner.lm_head)
        inputs.fill(
            request.tokens,
            runner.positions(request),
            pack(request.visible[:, common:]),
            runner.committed + common,
            cache.length,
        )
        logits, hidden = replay()
        cache.advance(n)
        # Copies, because the next replay overwrites the outputs.
        return logits[n - request.last if request.last else 0 : n].clone(), hidden[:n].clone()

    def multiplying(self, tokens: int) -> AbstractContextManager[None]:
        return nullcontext()

    def observable(self) -> Executor:
        raise UnsupportedError("the layers of captured passes cannot be observed")


class CudaGraphBackend:
    """Makes executors, and keeps storage and graphs between texts.

    Each executor has its own graph cache, which is reused when the executor is gone.

    Args:
        counts: token counts of the captured passes, ascending, at most 65.
        capture: captures a pass; None: CUDA graphs on CUDA, else eager passes.
        kernel: False: PyTorch's own attention even where the tree kernel runs.

    Raises:
        ValueError: counts that are not ascending numbers from 1 to 65.
    """

    batches = False

    def __init__(
        self, counts: Sequence[int] = COUNTS, capture: Capture | None = None, *, kernel: bool = True
    ) -> None:
        if list(counts) != sorted(set(counts)) or not 1 <= counts[0] <= counts[-1] <= max(COUNTS):
            raise ValueError(f"captured passes have ascending row counts of 1 to 65: {counts}")
        self.lock = ModelLock()
        self._counts = counts
        self._capture = capture
        self._kernel = kernel
        self._all: list[GraphCache] = []
        self._free: list[GraphCache] = []

    def executor(self, model: Any, modules: Sequence[nn.Module] | None = None) -> Executor:
        if modules is not None:  # draft heads are not captured
            return EagerExecutor()
        graphs = next((one for one in self._free if one.model is model), None)
        if graphs is None:
            graphs = GraphCache(model, self._counts, self._capture, self._kernel)
            self._all.append(graphs)
        else:
            self._free.remove(graphs)
        graphs.refresh()
        executor = CudaGraphExecutor(graphs)
        weakref.finalize(executor, self._free.append, graphs)
        return executor

    @property
    def records(self) -> tuple[CaptureRecord, ...]:
        """The static passes, captured or eager, and their cost."""
        return tuple(record for graphs in self._all for record in graphs.records)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not captured or does not use the tree kernel, and why; one line each."""
        return tuple(dict.fromkeys(note for graphs in self._all for note in graphs.notes))

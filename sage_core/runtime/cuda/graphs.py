"""Passes as functions of static device tensors, captured by token count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_core.models.parts import decoder_of
from sage_core.runtime.attention import MAX_COLUMNS, TreeMask, additive, attending, why_not
from sage_core.runtime.cuda.static_cache import StaticCache
from sage_core.runtime.model_state import module_state

COUNTS = (1, 4, 8, 16, 32, MAX_COLUMNS + 1)
"""Token counts of the captured passes; a pass is padded to the next of these.

The root takes no bit, since every node attends to it: 64 nodes fit.
"""

Outputs = tuple[Tensor, Tensor]
"""logits (n, vocabulary) and last hidden states (n, hidden), overwritten by the next replay."""

Pass = Callable[[], Outputs]

Capture = Callable[[Pass], Pass]
"""Captures a pass; returns its replay on the same memory."""


@dataclass(frozen=True, eq=False)
class PassInputs:
    """Inputs of a static pass over n tokens, as views of one int64 tensor on the device."""

    packed: Tensor
    """(3 n + 2,)"""
    tokens: Tensor
    """(1, n)"""
    positions: Tensor
    """(1, n) rotary positions."""
    words: Tensor
    """(n,) as in `TreeMask`; 0 for padding."""
    committed: Tensor
    """(1,) slots that all tokens attend to."""
    first: Tensor
    """(1,) the slot of the first token; the others follow it."""

    @classmethod
    def empty(cls, n: int, device: torch.device) -> PassInputs:
        packed = torch.zeros(3 * n + 2, dtype=torch.int64, device=device)
        tokens, positions, words, committed, first = packed.split((n, n, n, 1, 1))
        return cls(packed, tokens[None], positions[None], words, committed, first)

    def fill(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        words: np.ndarray,
        committed: int,
        first: int,
    ) -> None:
        """Write the inputs of a pass over at most n tokens, in one copy to the device."""
        n, count = self.words.shape[0], len(tokens)
        packed = np.zeros(3 * n + 2, dtype=np.int64)
        packed[:count] = tokens
        packed[n : n + count] = positions
        packed[2 * n : 2 * n + count] = words
        packed[3 * n :] = committed, first
        # A copy from pageable memory has read it when the call returns, without synchronization.
        self.packed.copy_(torch.from_numpy(packed), non_blocking=True)


def static_pass(
    model: Any, cache: StaticCache, inputs: PassInputs, kernel: bool, head: Any = None
) -> Outputs:
    """One pass over n tokens that reads device tensors only and never synchronizes.

    With ``kernel`` attention is the tree kernel, whose cost is that of the committed text; without,
    it is PyTorch's under an additive mask, whose cost is that of the whole buffer. ``head``
    replaces the model's output head.
    """
    decoder, head = decoder_of(model), head or model.get_output_embeddings()
    mask = TreeMask(inputs.words, inputs.committed)
    slots = inputs.first + torch.arange(inputs.words.shape[0], device=inputs.words.device)
    attention: Any
    if kernel:
        attention = attending(decoder.config, mask)
    else:
        attention = nullcontext({"attention_mask": additive(mask, cache.capacity, model.dtype)})
    with cache.writing(slots), attention as arguments:
        hidden = decoder(
            input_ids=inputs.tokens,
            position_ids=inputs.positions,
            past_key_values=cache,
            use_cache=True,
            **arguments,
        ).last_hidden_state[0]
    return head(hidden), hidden


class CudaGraphs:
    """Captures as CUDA graphs in one memory pool: replays never overlap."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._latest: Any = None  # a pool lives as long as one of its graphs

    def __call__(self, function: Pass) -> Pass:
        with torch.cuda.device(self._device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):  # warm-up: libraries start and kernels are compiled
                    function()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            pool = None if self._latest is None else self._latest.pool()
            with torch.cuda.graph(graph, pool=pool):
                outputs = function()
            self._latest = graph

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay


@dataclass(frozen=True)
class CaptureRecord:
    """One capture: token count of the pass, seconds and device bytes of the capture, attention."""

    model: str
    rows: int
    seconds: float
    bytes: int
    attention: str
    """``kernel`` or ``pytorch``."""
    captured: bool
    """False where the pass runs eagerly."""


class GraphCache:
    """Storage and captured passes of one model, for one text at a time."""

    def __init__(
        self, model: Any, counts: Sequence[int], capture: Capture | None, kernel: bool
    ) -> None:
        self.model = model
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.cache: StaticCache | None = None
        self.counts = tuple(counts)
        self.records: list[CaptureRecord] = []
        self.notes: list[str] = []
        parameters = sum(p.numel() for p in decoder_of(model).parameters())
        self._name = f"{type(model).__name__} ({parameters:,} parameters)"
        self._passes: dict[int, tuple[PassInputs, Pass]] = {}
        self._storage: Tensor | None = None
        self._head: Any = None
        self._state: list[Any] = []
        self._capture = capture
        if capture is None and self.device.type == "cuda":
            self._capture = CudaGraphs(self.device)
        elif capture is None:
            self.note(f"CUDA graphs need a CUDA device, not {self.device.type}")
        missing = why_not(self.device) if kernel else ""
        self._kernel = kernel and not missing
        if missing:
            self.note(f"PyTorch's own attention: {missing}")

    def note(self, text: str) -> None:
        """Add a note, unless it is there."""
        line = f"{self._name}: {text}"
        if line not in self.notes:
            self.notes.append(line)

    def storage(self, layers: int, capacity: int) -> StaticCache:
        """The cache, emptied, with at least ``capacity`` slots, a multiple of 64 as kernels use."""
        capacity = -(-capacity // 64) * 64
        if self.cache is None:
            self.cache = StaticCache(layers, capacity)
        self.cache.restart(capacity)
        return self.cache

    def refresh(self) -> None:
        """Drop the captures if what they depend on has changed. Call it before each text.

        That is where the model's tensors are, and the attributes of its modules. The values of its
        tensors are read in each replay.
        """
        modules = [decoder_of(self.model), self.model.get_output_embeddings()]
        tensors = (*self.model.parameters(), *self.model.buffers())
        state = [*(one.data_ptr() for one in tensors), *module_state(modules)]
        if state != self._state:
            self._state = state
            self._passes.clear()

    def rows(self, count: int) -> int:
        """The padded token count for ``count`` tokens; 0 if they are too many."""
        return next((rows for rows in self.counts if rows >= count), 0)

    def pass_of(self, rows: int, head: Any = None) -> tuple[PassInputs, Pass]:
        """Static inputs and the pass that reads them, which is captured when first called.

        ``head`` replaces the model's output head.
        """
        assert self.cache is not None
        # Captures are bound to the storage and the output head.
        if self.cache.storage is not self._storage or head is not self._head:
            self._passes.clear()
            self._storage, self._head = self.cache.storage, head
        if rows not in self._passes:
            inputs = PassInputs.empty(rows, self.device)
            self._passes[rows] = (inputs, lambda: self._first_run(rows))
        return self._passes[rows]

    def _first_run(self, rows: int) -> Outputs:
        """Capture the pass, whose inputs have been filled, and run it."""
        inputs, _ = self._passes[rows]
        # The first that works is kept; the last is an eager pass with PyTorch's own attention.
        kernels = (True, False) if self._kernel else (False,)
        captures = (self._capture, None) if self._capture is not None else (None,)
        for capture, kernel in product(captures, kernels):

            def function(kernel: bool = kernel) -> Outputs:
                assert self.cache is not None
                return static_pass(self.model, self.cache, inputs, kernel, self._head)

            started, before = perf_counter(), _reserved(self.device)
            try:
                run = capture(function) if capture else function
                outputs = run()
            except Exception as error:  # kernel compilers raise any type
                if not kernel and capture is None:
                    raise
                what = "the tree kernel" if kernel else "PyTorch's own attention"
                how = "captured" if capture else "run"
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                self.note(f"a pass over {rows} rows with {what} cannot be {how}: {reason}")
                continue
            self._passes[rows] = (inputs, run)
            seconds, grown = perf_counter() - started, max(0, _reserved(self.device) - before)
            attention = "kernel" if kernel else "pytorch"
            self.records.append(
                CaptureRecord(self._name, rows, seconds, grown, attention, capture is not None)
            )
            return outputs
        raise AssertionError("the last attempt returns or raises")


def _reserved(device: torch.device) -> int:
    return int(torch.cuda.memory_reserved(device)) if device.type == "cuda" else 0

"""A pass as a function of static device tensors, and its captures by row count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_core.runtime.attention import MAX_COLUMNS, TreeMask, additive, attending, why_not
from sage_core.runtime.cuda.static_cache import StaticCache

COUNTS = (1, 4, 8, 16, 32, MAX_COLUMNS + 1)
"""Rows of the passes that are captured: the root and the nodes, padded to the next of these.

The root takes no bit, since every row sees it: 64 nodes fit.
"""


Outputs = tuple[Tensor, Tensor]
"""logits (n, vocabulary) and last hidden states (n, hidden), overwritten by the next replay."""


Pass = Callable[[], Outputs]


Capture = Callable[[Pass], Pass]
"""Records a pass once; what it returns repeats it on the same memory."""


@dataclass(frozen=True, eq=False)
class PassInputs:
    """What a static pass over n rows reads, as views of one int64 tensor on the device.

    A drafter that stays on the device may write them itself, level by level, and call
    `static_pass` several times within one capture.
    """

    packed: Tensor
    """(3 n + 2,)"""
    tokens: Tensor
    """(1, n)"""
    positions: Tensor
    """(1, n) rotary positions."""
    words: Tensor
    """(n,) as in `TreeMask`; 0 for rows that pad."""
    committed: Tensor
    """(1,) slots that every row sees."""
    first: Tensor
    """(1,) the slot of the first row; the others follow it."""

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
        """Write a pass over at most n rows, in one copy to the device."""
        n, rows = self.words.shape[0], len(tokens)
        packed = np.zeros(3 * n + 2, dtype=np.int64)
        packed[:rows] = tokens
        packed[n : n + rows] = positions
        packed[2 * n : 2 * n + rows] = words
        packed[3 * n :] = committed, first
        # From memory that is not pinned: it has been read when this returns, without a wait.
        self.packed.copy_(torch.from_numpy(packed), non_blocking=True)


def static_pass(
    model: Any, cache: StaticCache, inputs: PassInputs, kernel: bool, head: Any = None
) -> Outputs:
    """One pass over n rows that reads nothing but device tensors; the host learns nothing of it.

    With ``kernel`` attention is the tree kernel and costs what the text costs; without, it is
    PyTorch's own under an additive mask, and costs what the whole buffer would. ``head`` scores in
    place of the model's own.
    """
    decoder, head = model.get_decoder(), head or model.get_output_embeddings()
    mask = TreeMask(inputs.words, inputs.committed)
    slots = inputs.first + torch.arange(inputs.words.shape[0], device=inputs.words.device)
    seen: Any = (
        attending(decoder.config, mask)
        if kernel
        else nullcontext({"attention_mask": additive(mask, cache.capacity, model.dtype)})
    )
    with cache.writing(slots), seen as arguments:
        hidden = decoder(
            input_ids=inputs.tokens,
            position_ids=inputs.positions,
            past_key_values=cache,
            use_cache=True,
            **arguments,
        ).last_hidden_state[0]
    return head(hidden), hidden


class CudaGraphs:
    """Captures as CUDA graphs, all in one memory pool: replays follow one another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._latest: Any = None  # a pool lives as long as a graph of it

    def __call__(self, function: Pass) -> Pass:
        with torch.cuda.device(self._device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):  # libraries start and kernels are compiled outside the capture
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
    """One capture: rows of the pass, the seconds and device bytes it took, and how it attends."""

    model: str
    rows: int
    seconds: float
    bytes: int
    attention: str
    """``kernel`` or ``pytorch``."""
    captured: bool
    """False where the pass runs eagerly."""


class GraphCache:
    """Storage and captured passes of one model, for one text at a time and many in a row."""

    def __init__(
        self, model: Any, counts: Sequence[int], capture: Capture | None, kernel: bool
    ) -> None:
        self.model = model
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.cache: StaticCache | None = None
        self.counts = tuple(counts)
        self.records: list[CaptureRecord] = []
        self.notes: list[str] = []
        self._name = f"{type(model).__name__} ({_size(model)})"
        self._passes: dict[int, tuple[PassInputs, Pass]] = {}
        self._storage: Tensor | None = None
        self._head: Any = None
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
        """Say something once."""
        line = f"{self._name}: {text}"
        if line not in self.notes:
            self.notes.append(line)

    def storage(self, layers: int, capacity: int) -> StaticCache:
        """The cache, empty, with at least ``capacity`` slots: whole blocks of the kernel's."""
        capacity = -(-capacity // 64) * 64
        if self.cache is None:
            self.cache = StaticCache(layers, capacity)
        self.cache.restart(capacity)
        return self.cache

    def rows(self, count: int) -> int:
        """The rows of the pass that serves ``count``; 0 if it is too many."""
        return next((rows for rows in self.counts if rows >= count), 0)

    def pass_of(self, rows: int, head: Any = None) -> tuple[PassInputs, Pass]:
        """Static inputs and the pass that reads them; not captured before its `run`.

        ``head`` scores in place of the model's own.
        """
        assert self.cache is not None
        # Captured passes write where the cache was, and score by the head that there was.
        if self.cache.storage is not self._storage or head is not self._head:
            self._passes.clear()
            self._storage, self._head = self.cache.storage, head
        if rows not in self._passes:
            inputs = PassInputs.empty(rows, self.device)
            self._passes[rows] = (inputs, lambda: self._first_run(rows))
        return self._passes[rows]

    def _first_run(self, rows: int) -> Outputs:
        """Capture the pass on the inputs that have been filled, and run it."""
        inputs, _ = self._passes[rows]
        *others, last = self._attempts()
        for kernel, capture in (*others, last):
            # The loop's variables are bound here: each way is another function.
            def function(kernel: bool = kernel) -> Outputs:
                assert self.cache is not None
                return static_pass(self.model, self.cache, inputs, kernel, self._head)

            started, before = perf_counter(), _reserved(self.device)
            try:
                run = capture(function) if capture else function
                outputs = run()
            except Exception as error:  # kernel compilers raise types of their own
                if (kernel, capture) == last:
                    raise
                self._give_up(kernel, capture is not None, rows, error)
                continue
            self._passes[rows] = (inputs, run)
            took = perf_counter() - started
            attention = "kernel" if kernel else "pytorch"
            grown = max(0, _reserved(self.device) - before)
            self.records.append(
                CaptureRecord(self._name, rows, took, grown, attention, capture is not None)
            )
            return outputs
        raise AssertionError("the last way returns or raises")

    def _attempts(self) -> list[tuple[bool, Capture | None]]:
        """(kernel, capture) in order of preference, the first one that works is kept."""
        attempts: list[tuple[bool, Capture | None]] = []
        if self._capture is not None:
            attempts += [(True, self._capture)] if self._kernel else []
            attempts.append((False, self._capture))
        attempts += [(True, None)] if self._kernel else []
        return [*attempts, (False, None)]

    def _give_up(self, kernel: bool, captured: bool, rows: int, error: Exception) -> None:
        what = "the tree kernel" if kernel else "PyTorch's own attention"
        how = "captured" if captured else "run"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        self.note(f"a pass over {rows} rows with {what} cannot be {how}: {reason}")


def _reserved(device: torch.device) -> int:
    return int(torch.cuda.memory_reserved(device)) if device.type == "cuda" else 0


def _size(model: Any) -> str:
    """Parameters of the decoder, which is what a pass runs."""
    return f"{sum(p.numel() for p in model.get_decoder().parameters()):,} parameters"

"""A CUDA graph in small, on the CPU: operations recorded once and repeated on the same memory.

As in a captured graph, what the host computed while recording is frozen, every tensor stays where
it was, and an operation that would have to wait for the device cannot be recorded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sage_core.runtime.cuda.graphs import Outputs, Pass

WAITS = ("_local_scalar_dense", "nonzero", "item", "masked_select", "unique", "is_nonzero", "equal")


class OpTrace(TorchDispatchMode):
    """Records every operation that is not a mere view."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in WAITS:
            raise RuntimeError(f"{name} waits for the device")
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        results = _tensors(out)
        # By what it did: a reshape is a view or a copy.
        held = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        new = any(result.untyped_storage().data_ptr() not in held for result in results)
        if new or func._schema.is_mutable:
            self.operations.append((func, args, kwargs, results))
        return out

    def repeat(self) -> None:
        """Everything again, on the tensors of the recording."""
        for func, args, kwargs, results in self.operations:
            again = func(*args, **kwargs)
            if func._schema.is_mutable:
                continue
            for old, new in zip(results, _tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def record(function: Pass) -> Pass:
    """A `Capture`: what it returns repeats the trace."""
    trace = OpTrace()
    with trace:
        outputs = function()

    def replay() -> Outputs:
        trace.repeat()
        return outputs

    return replay

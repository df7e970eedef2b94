"""Requests of forward passes over tree tokens, and the runner and executors that make them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sage_core.runtime.kv_cache import TreeCache
from sage_core.runtime.tree_mask import TreeMaskBuffer

Outputs = tuple[Tensor, Tensor]
"""Logits (n or ``last``, vocabulary) and last hidden states (n, hidden) of a pass over n tokens."""


@dataclass(slots=True, eq=False)
class PassRequest:
    """A forward pass over n tree tokens, which become tree columns until the next commit.

    Args:
        runner: runs the model, and holds the cache that the pass extends.
        tokens: n token ids.
        depths: n distances from the first slot after the committed text.
        visible: bool (n, columns): the tree columns, old and new, that each token attends to,
            besides the committed text.
        last: number of last tokens to compute logits for; 0 for all.
        features: (n, hidden) the feature before each token, for a draft head; None for a model.
    """

    runner: TreeRunner
    tokens: Sequence[int]
    depths: Sequence[int]
    visible: np.ndarray
    last: int = 0
    features: Tensor | None = None

    def run(self) -> Outputs:
        """Make this pass alone."""
        return self.runner.run(self)


EagerPass = Callable[..., Tensor]
"""Tensors by name -> (1, n, hidden) last hidden states."""


class Executor(Protocol):
    """Executes one model's passes for one text at a time."""

    name: str
    """Part of the key of pass costs: ``eager``, ``traced``, ``CUDA graphs``..."""

    def new_cache(self, layers: int, capacity: int, *, shared: bool) -> TreeCache:
        """An empty cache; arguments as for `TreeCache`."""

    def run(self, runner: TreeRunner, request: PassRequest) -> Outputs:
        """Make one pass."""

    def multiplying(self, tokens: int) -> AbstractContextManager[None]:
        """While open, the model's modules use packed weights if a pass over ``tokens`` does."""

    def observable(self) -> Executor:
        """An executor that calls the model's own modules in every pass, for hooks on them."""


class EagerExecutor:
    """Calls the model's own decoder and output head."""

    name = "eager"

    def new_cache(self, layers: int, capacity: int, *, shared: bool) -> TreeCache:
        return TreeCache(layers, capacity, shared=shared)

    def run(self, runner: TreeRunner, request: PassRequest) -> Outputs:
        return runner.run_eagerly(request)

    def multiplying(self, tokens: int) -> AbstractContextManager[None]:
        return nullcontext()

    def observable(self) -> Executor:
        return self


class TreeRunner(ABC):
    """Runs a model, or a draft head, on one sequence, with its cache.

    The cache holds ``committed`` slots of the sequence and, between a pass and its `commit`, the
    tree columns after them. Rotary positions are slots plus an offset that the prompt sets.

    Args:
        executor: of the passes.
        lm_head: (n, hidden) -> (n, vocabulary) logits.
        device: of the inputs.
        dtype: of the additive mask.
    """

    def __init__(
        self,
        executor: Executor,
        lm_head: Callable[[Tensor], Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.executor = executor
        self.lm_head = lm_head
        self.device = device
        self.committed = 0
        self.cache: TreeCache
        self._dtype = dtype
        self._offset = 0

    @property
    @abstractmethod
    def model(self) -> Any:
        """The module whose weights are used: passes over one model can be made together."""

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """Its decoder stack, a transformers module."""

    @abstractmethod
    def inputs(self, request: PassRequest) -> dict[str, Tensor]:
        """The input tensors of a pass by name."""

    @abstractmethod
    def decode(self, **inputs: Any) -> Tensor:
        """(1, n, hidden) last hidden states of an eager pass over `inputs`."""

    def input_embeds(self, request: PassRequest) -> Tensor | None:
        """(1, n, hidden) decoder inputs that are not plain token embeddings; None if they are."""
        return None

    def set_lm_head(self, lm_head: Callable[[Tensor], Tensor]) -> None:
        """Compute the logits of all passes but `prefill` by ``lm_head``, (n, hidden) -> (n, S)."""
        self.lm_head = lm_head

    def observe_layers(self) -> None:
        """From now on call the decoder's own modules in every pass, for hooks on them."""
        self.executor = self.executor.observable()

    @torch.inference_mode()
    def run(self, request: PassRequest) -> Outputs:
        """Make one pass of this runner."""
        return self.executor.run(self, request)

    def forward(
        self, tokens: Sequence[int], depths: Sequence[int], visible: np.ndarray, last: int = 0
    ) -> Outputs:
        """One pass over n tree tokens; arguments as for `PassRequest`."""
        return self.run(PassRequest(self, tokens, depths, visible, last))

    def run_eagerly(
        self,
        request: PassRequest,
        call: Callable[[int, Mapping[str, Any], TreeCache, EagerPass], Tensor] | None = None,
    ) -> Outputs:
        """One pass by the model's own modules, or by ``call``.

        ``call`` takes the number of tokens, the inputs, the cache and the eager pass.
        """
        inputs = self.inputs(request)
        if call is None:
            hidden = self.decode(**inputs)[0]
        else:
            hidden = call(len(request.tokens), inputs, self.cache, self.decode)[0]
        return self.lm_head(hidden[-request.last :] if request.last else hidden), hidden

    @property
    def next_position(self) -> int:
        """The position of the first token after the committed text."""
        return self.committed + self._offset

    def positions(self, request: PassRequest) -> list[int]:
        """The n positions of a pass."""
        return [self.next_position + depth for depth in request.depths]

    def mask(self, request: PassRequest) -> Tensor:
        """(1, 1, n, committed + columns) additive mask of a pass; valid until the next one."""
        return self._mask.additive(request.visible, self.committed)

    def masks(self, request: PassRequest) -> dict[str, Tensor]:
        """The masks of a pass by kind of layer; a kind without a name if all layers take one."""
        return {"": self.mask(request)}

    @torch.inference_mode()
    def commit(self, columns: Sequence[int]) -> None:
        """Append the given tree columns (ascending, a path) to the sequence; drop the others."""
        self.cache.keep(self.committed, [self.committed + column for column in columns])
        self.committed += len(columns)

    def restorable(self, count: int) -> int:
        """Committed slots that are left if ``count`` of them or more, but as few as possible, are
        dropped; 0 if the text must be read again. A state does not go back to every slot."""
        return self.cache.restorable(self.committed - count)

    def truncate(self, count: int) -> None:
        """Drop the last ``count`` committed slots, which hold text only; see `restorable`."""
        self.committed -= count
        self.cache.keep(self.committed, [])

    def _start(self, cache: TreeCache, committed: int, offset: int) -> None:
        self.cache = cache
        self.committed = committed
        self._offset = offset
        self._mask = TreeMaskBuffer(self.device, self._dtype)

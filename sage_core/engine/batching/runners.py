"""TODO docstring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sage_core.drafts.head.module import Head
from sage_core.drafts.head.runner import HeadRunner
from sage_core.runtime.cpu.packed_weights import PackedWeights
from sage_core.runtime.ragged_batch import Part, ragged_pass
from sage_core.runtime.runner import Runner

if TYPE_CHECKING:
    from sage_core.engine.batching.scheduler import BatchScheduler

Outputs = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class PassRequest:
    """A pass that a row waits for: the arguments of `Runner.forward`."""

    runner: Any
    """A `BatchedRunner`, or a `heads.row.BatchedHeadRunner`."""
    tokens: Sequence[int]
    depths: Sequence[int]
    visible: np.ndarray
    last: int
    features: Tensor | None = None
    """For a head: (n, size) the feature before each token."""

    def part(self) -> Part:
        """Its share of a joint pass."""
        runner = self.runner
        start = runner.committed + runner._offset
        mask = runner._mask.additive(self.visible, runner.committed)
        return Part(self.tokens, [start + depth for depth in self.depths], mask, runner.cache)


class BatchedRunner(Runner):
    """Runs a model for one row; its tree passes are made together with those of other rows."""

    watchable = False

    def __init__(
        self, model: Any, table: BatchScheduler, packs: PackedWeights | None = None
    ) -> None:
        super().__init__(model)
        self._table = table
        self._packs = packs
        self.backend = f"{'packed ' if packs else ''}batches of {table.width}"

    def forward(
        self, tokens: Sequence[int], depths: Sequence[int], visible: np.ndarray, last: int = 0
    ) -> Outputs:
        return self._table.submit(PassRequest(self, tokens, depths, visible, last))

    def alone(self, request: PassRequest) -> Outputs:
        """The pass of this row only."""
        with self._multiplying(len(request.tokens)):
            return super().forward(request.tokens, request.depths, request.visible, request.last)

    def _multiplying(self, tokens: int) -> AbstractContextManager[None]:
        """With packed weights, as `CpuRunner` does."""
        return self._packs.in_use() if self._packs and tokens > 1 else nullcontext()

    @staticmethod
    @torch.inference_mode()
    def together(requests: Sequence[PassRequest]) -> list[Outputs]:
        """The passes of several rows over one model, as one; what `forward` gives, for each."""
        first = requests[0].runner
        with first._multiplying(sum(len(request.tokens) for request in requests)):
            return joint_outputs(requests, first._decoder, first._head)


def joint_outputs(
    requests: Sequence[PassRequest],
    decoder: Any,
    score: Callable[[Tensor], Tensor],
    rows: Tensor | None = None,
) -> list[Outputs]:
    """One pass through ``decoder`` for all requests, scored; ``rows`` as for `joint_pass`."""
    sizes = [len(request.tokens) for request in requests]
    parts = [request.part() for request in requests]
    hidden = ragged_pass(decoder, parts, rows).split(sizes)
    asked = [h[-r.last :] if r.last else h for h, r in zip(hidden, requests, strict=True)]
    logits = score(torch.cat(asked)).split([len(one) for one in asked])
    return list(zip(logits, hidden, strict=True))


class BatchedHeadRunner(HeadRunner):
    """Runs a head for one row, at a `batch.BatchScheduler`. The features of a pass go with the request."""

    def __init__(self, head: Head, target: Any, table: BatchScheduler) -> None:
        super().__init__(head, target, table.runners)
        self.model = head
        self._table = table

    @property
    def decoder(self) -> Any:
        """The module that passes go through."""
        return self._head.decoder

    def forward(
        self,
        features: Tensor,
        tokens: Sequence[int],
        depths: Sequence[int],
        visible: np.ndarray,
        last: int = 0,
    ) -> Outputs:
        request = PassRequest(self, tokens, depths, visible, last, features)
        return self._table.submit(request)

    def alone(self, request: PassRequest) -> Outputs:
        """The pass of this row only."""
        assert request.features is not None
        given = (request.tokens, request.depths, request.visible, request.last)
        return super().forward(request.features, *given)

    @staticmethod
    @torch.inference_mode()
    def together(requests: Sequence[PassRequest]) -> list[Outputs]:
        """The passes of several rows over one head, as one; what `forward` gives, for each."""
        rows: list[Tensor] = []
        for request in requests:
            runner: BatchedHeadRunner = request.runner
            assert request.features is not None
            embeds = runner.embedded(request.tokens)
            rows.append(runner._head.inputs(request.features[None], embeds[None], runner._joined))
        with runner._packs.in_use() if runner._packs else nullcontext():
            return joint_outputs(requests, runner.decoder, runner._score, torch.cat(rows, dim=1))

"""A head at work on one of several texts: its passes are made together with those of the others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sage_core.drafts.head.module import Head
from sage_core.drafts.head.runner import HeadRunner
from sage_core.engine.batching.scheduler import Outputs, PassRequest, joint_outputs

if TYPE_CHECKING:
    from sage_core.engine.batching.scheduler import Table


class HeadRowRunner(HeadRunner):
    """Runs a head for one row, at a `batch.Table`. The features of a pass go with the request."""

    def __init__(self, head: Head, target: Any, table: Table) -> None:
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
        return self._table.passed(request)

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
            runner: HeadRowRunner = request.runner
            assert request.features is not None
            embeds = runner.embedded(request.tokens)
            rows.append(runner._head.inputs(request.features[None], embeds[None], runner._joined))
        with runner._packs.in_use() if runner._packs else nullcontext():
            return joint_outputs(requests, runner.decoder, runner._score, torch.cat(rows, dim=1))

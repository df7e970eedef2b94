"""A head at work on one of several texts: its passes are made together with those of the others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sage_core.batch import Outputs, PassRequest
from sage_core.heads.module import Head
from sage_core.heads.runner import HeadRunner
from sage_core.joint import Part, joint_pass

if TYPE_CHECKING:
    from sage_core.batch import Table


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
        parts: list[Part] = []
        rows: list[Tensor] = []
        for request in requests:
            runner: HeadRowRunner = request.runner
            assert request.features is not None
            start = runner.committed + runner._offset
            mask = runner._mask.additive(request.visible, runner.committed)
            positions = [start + depth for depth in request.depths]
            parts.append(Part(request.tokens, positions, mask, runner.cache))
            embeds = runner.embedded(request.tokens)
            rows.append(runner._head.inputs(request.features[None], embeds[None], runner._joined))
        sizes = [len(part.tokens) for part in parts]
        packs = runner._packs if sum(sizes) > 1 else None
        with packs.in_use() if packs else nullcontext():
            hidden = joint_pass(runner.decoder, parts, torch.cat(rows, dim=1)).split(sizes)
            asked = [h[-r.last :] if r.last else h for h, r in zip(hidden, requests, strict=True)]
            logits = runner._score(torch.cat(asked)).split([len(one) for one in asked])
        return list(zip(logits, hidden, strict=True))

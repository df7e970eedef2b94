"""A head in training: several draft steps, from the second on with its own features."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sage_core.distill.acceptance_fit import fit_acceptance
from sage_core.distill.losses import distribution_loss, feature_loss
from sage_core.distill.options import DistillOptions
from sage_core.distill.state import write_errors
from sage_core.distill.student import EVALUATED_DEPTH, ChainAcceptance, LossOutput, chain_acceptance
from sage_core.distill.teacher import Example, Teacher
from sage_core.distill.unroll import unroll
from sage_core.drafts.head.checkpoint import load_head, save_head
from sage_core.drafts.head.init import new_head
from sage_core.drafts.head.module import Head


class HeadStudent:
    """Trains a `sage_core.drafts.head.module.Head`; embedding and output head are the target's.

    Raises:
        OptionError: options that this kind of head does not allow.
        ModelError: no head can be made for this target.
    """

    def __init__(self, teacher: Teacher, options: DistillOptions) -> None:
        torch.manual_seed(options.seed)
        head = new_head(
            teacher.target,
            name=teacher.pair.target_id,
            kind=options.kind,
            mode=options.mode,
            ratio=options.ratio,
            queries=options.queries,
        )
        self.module: nn.Module = head.to(teacher.device).train()
        self._head = head
        self._teacher = teacher
        self._options = options

    def compute_loss(self, example: Example) -> LossOutput:
        options = self._options
        steps = unroll(self._head, example, options.depths)
        token_losses: list[Tensor] = []
        feature_losses: list[Tensor] = []
        for k, predicted in enumerate(steps):
            feature_losses.append(feature_loss(predicted, example.answer_features[k:]))
            given = (predicted, example.logits[k:])
            if options.recompute:  # logits are the largest thing that is kept for gradients
                token_losses.append(checkpoint(self._token_loss, *given, use_reentrant=False))
            else:
                token_losses.append(self._token_loss(*given))
        tokens, features = torch.stack(token_losses).mean(), torch.stack(feature_losses).mean()
        loss = options.ce_weight * tokens + options.feature_weight * features
        return LossOutput(loss, {options.loss: tokens.detach(), "features": features.detach()})

    def _token_loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        return distribution_loss(self._options.loss, self._teacher.logits(predicted), target)

    @torch.no_grad()
    def evaluate(self, example: Example) -> ChainAcceptance:
        steps = unroll(self._head, example, EVALUATED_DEPTH, training=False)
        return chain_acceptance([self._teacher.logits(step) for step in steps], example.logits)

    def save(self, folder: Path) -> None:
        with write_errors(folder):
            save_head(self._head, folder)

    def load(self, folder: Path) -> Any:
        return load_head(folder, self._teacher.target)

    def fit_acceptance(self, draft: Head, prompts: Iterable[dict[str, Any]], folder: Path) -> int:
        backend, longest = self._teacher.backend, self._options.max_new_tokens
        nodes = fit_acceptance(self._teacher.target, draft, prompts, longest, backend)
        if nodes:
            with write_errors(folder):
                save_head(draft, folder)
        return nodes

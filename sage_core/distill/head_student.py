"""A head in training: several steps on its own features, judged as it will draft."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sage_core.distill.acceptance_fit import learn_acceptance
from sage_core.distill.losses import distribution_loss, feature_loss
from sage_core.distill.options import DistillOptions
from sage_core.distill.state import write_errors
from sage_core.distill.student import EVALUATED_DEPTH, Acceptance, LossOutput, agreement
from sage_core.distill.teacher import Example, Teacher
from sage_core.distill.unroll import unroll
from sage_core.drafts.head.checkpoint import load_head, save_head
from sage_core.drafts.head.init import new_head
from sage_core.drafts.head.module import Head

__all__ = ["HeadStudent"]


class HeadStudent:
    """Trains a `sage_core.drafts.head.Head`; embedding and output head stay the target's.

    Raises:
        OptionError: options that no such head has.
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
        device = teacher.target.get_output_embeddings().weight.device
        self.module: nn.Module = head.to(device).train()
        self._head = head
        self._teacher = teacher
        self._options = options

    def compute_loss(self, example: Example) -> LossOutput:
        options = self._options
        steps = unroll(self._head, example, options.depths)
        words: list[Tensor] = []
        shapes: list[Tensor] = []
        for k, predicted in enumerate(steps):
            shapes.append(feature_loss(predicted, example.answer_features[k:]))
            if options.recompute:  # a vocabulary's logits are the largest thing that is kept
                given = (predicted, example.logits[k:])
                words.append(checkpoint(self._words, *given, use_reentrant=False))
            else:
                words.append(self._words(predicted, example.logits[k:]))
        word, shape = torch.stack(words).mean(), torch.stack(shapes).mean()
        loss = options.ce_weight * word + options.feature_weight * shape
        return LossOutput(loss, {options.loss: word.detach(), "features": shape.detach()})

    def _words(self, predicted: Tensor, target: Tensor) -> Tensor:
        return distribution_loss(self._options.loss, self._teacher.logits(predicted), target)

    @torch.no_grad()
    def evaluate(self, example: Example) -> Acceptance:
        steps = unroll(self._head, example, EVALUATED_DEPTH, training=False)
        return agreement([self._teacher.logits(step) for step in steps], example.logits)

    def save(self, folder: Path) -> None:
        with write_errors(folder):
            save_head(self._head, folder)

    def load(self, folder: Path) -> Any:
        return load_head(folder, self._teacher.target)

    def fit_acceptance(self, draft: Head, prompts: Iterable[dict[str, Any]], folder: Path) -> int:
        backend, longest = self._teacher.backend, self._options.max_new_tokens
        learned = learn_acceptance(self._teacher.target, draft, prompts, longest, backend)
        if learned:
            with write_errors(folder):
                save_head(draft, folder)
        return learned

"""Losses of a draft, as means over n positions of an answer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CANDIDATES = 64
"""How many of the target's most likely tokens `acceptance_loss` sums over."""


def cross_entropy(draft: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the draft's logits to the target's distribution; both (n, vocabulary)."""
    wanted = target.float().softmax(dim=-1)
    return -(wanted * draft.float().log_softmax(dim=-1)).sum(dim=-1).mean()


def acceptance_loss(draft: Tensor, target: Tensor, candidates: int = CANDIDATES) -> Tensor:
    """−log of the probability that a token drawn from the draft is accepted.

    That probability is Σ min(p, q), 1 minus the total variation distance (Leviathan et al., arXiv
    2211.17192); the sum is over the target's most likely tokens. The logarithm weighs the gradient
    of each position by 1 / Σ min(p, q), so that positions with low acceptance are trained too.
    ``draft`` and ``target`` are (n, vocabulary).
    """
    p = target.float().softmax(dim=-1)
    top, ids = p.topk(min(candidates, p.shape[-1]), dim=-1)
    log_q = draft.float().log_softmax(dim=-1).gather(-1, ids)
    log_min = torch.minimum(log_q, top.clamp_min(1e-30).log())
    return -log_min.logsumexp(dim=-1).mean()


def distribution_loss(kind: str, draft: Tensor, target: Tensor) -> Tensor:
    """`cross_entropy` for ``sage``, `acceptance_loss` for ``acceptance``."""
    return acceptance_loss(draft, target) if kind == "acceptance" else cross_entropy(draft, target)


def feature_loss(predicted: Tensor, features: Tensor) -> Tensor:
    """Smooth L1 distance of predicted features to the target's; both (n, size)."""
    return F.smooth_l1_loss(predicted.float(), features.float())

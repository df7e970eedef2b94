"""What a draft is trained for, as functions of rows: a row is a position of an answer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CANDIDATES", "acceptance", "cross_entropy", "distribution_loss", "feature_loss"]

CANDIDATES = 64
"""How many of the target's likeliest tokens `acceptance` looks at."""


def cross_entropy(draft: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the draft's logits to the target's distribution, a mean over rows.

    ``draft`` and ``target`` are (rows, vocabulary).
    """
    wanted = target.float().softmax(dim=-1)
    return -(wanted * draft.float().log_softmax(dim=-1)).sum(dim=-1).mean()


def acceptance(draft: Tensor, target: Tensor, candidates: int = CANDIDATES) -> Tensor:
    """−log of the probability that a token drawn from the draft is accepted, a mean over rows.

    That probability is Σ min(p, q), 1 less the total variation distance (Leviathan et al., arXiv
    2211.17192); the sum is over the target's likeliest tokens. The logarithm weighs each row's
    gradient by how seldom it is accepted, where the distance itself hardly moves such rows.
    ``draft`` and ``target`` are (rows, vocabulary).
    """
    p = target.float().softmax(dim=-1)
    top, ids = p.topk(min(candidates, p.shape[-1]), dim=-1)
    log_q = draft.float().log_softmax(dim=-1).gather(-1, ids)
    log_min = torch.minimum(log_q, top.clamp_min(1e-30).log())
    return -log_min.logsumexp(dim=-1).mean()


def distribution_loss(kind: str, draft: Tensor, target: Tensor) -> Tensor:
    """`cross_entropy` for ``sage``, `acceptance` for ``acceptance``."""
    return acceptance(draft, target) if kind == "acceptance" else cross_entropy(draft, target)


def feature_loss(predicted: Tensor, features: Tensor) -> Tensor:
    """Smooth L1 distance of predicted features to the target's, both (rows, size)."""
    return F.smooth_l1_loss(predicted.float(), features.float())

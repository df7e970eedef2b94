"""Candidate tokens for the children of a node: the draft's top k, or samples from the draft."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sage_core.trees.policy import Growth


@dataclass(frozen=True)
class Candidates:
    """One level's candidates: k for each of F parents.

    ``expected``: float32 (F, k), each parent's k largest probabilities in descending order, all
    that a policy gets. ``tokens``: int64 (F, k), the candidates in order. ``probs``: float32
    (F, k), the draft's probability of each. ``draft``: (F, vocabulary), the distribution that they
    were sampled from, None for top-k candidates.
    """

    expected: np.ndarray
    tokens: np.ndarray
    probs: np.ndarray
    draft: Tensor | None = None

    def placed(self, growth: Growth) -> Growth:
        """``growth`` with the ranks of the candidates that its nodes get.

        Of sampled candidates a parent's m children are always the first m samples, whatever ranks
        the policy chose.
        """
        if self.draft is None or not len(growth.parents):
            return growth
        order = np.lexsort((growth.ranks, growth.parents))
        rows = growth.parents[order]
        ranks = np.empty_like(growth.ranks)
        ranks[order] = np.arange(len(rows)) - np.searchsorted(rows, rows)
        return replace(growth, ranks=ranks)


class CandidateSelector(Protocol):
    """Selects candidates from a draft's scores."""

    def select(self, scores: Tensor, k: int) -> Candidates:
        """Up to k candidates for each of (F, vocabulary) scores."""


class TopK:
    """The k likeliest tokens: deterministic."""

    @torch.inference_mode()
    def select(self, scores: Tensor, k: int) -> Candidates:
        # Where every token is forbidden the softmax is NaN: all candidates get probability 0.
        probs, tokens = scores.softmax(dim=-1).nan_to_num_(0.0).topk(min(k, scores.shape[1]))
        if scores.device.type == "cpu":
            return Candidates(probs.numpy(), tokens.numpy(), probs.numpy())
        # One device-to-host copy.
        packed = torch.stack([probs.double(), tokens.double()]).cpu().numpy()
        top = packed[0].astype(np.float32)
        return Candidates(top, packed[1].astype(np.int64), top)


class Sampled:
    """k tokens sampled from the draft's distribution q without replacement.

    By an exponential race with rates q(x), which is equivalent to the Gumbel top-k trick (Kool et
    al., arXiv 1903.06059).

    A policy gets the k largest probabilities instead of those of the samples, so that the number
    of children of a node cannot depend on the samples there: the acceptance rule would be biased.
    The generator is on the device of the scores.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    @torch.inference_mode()
    def select(self, scores: Tensor, k: int) -> Candidates:
        k = min(k, scores.shape[1])
        draft = scores.softmax(dim=-1).nan_to_num(0.0).to(self._generator.device)
        tokens = self._order(draft, k)
        best, own = draft.topk(k, dim=-1).values, draft.gather(1, tokens)
        packed = torch.stack([best.double(), own.double(), tokens.double()])
        expected, probs, ids = packed.cpu().numpy()
        return Candidates(
            expected.astype(np.float32), ids.astype(np.int64), probs.astype(np.float32), draft
        )

    def _order(self, draft: Tensor, k: int) -> Tensor:
        """int64 (F, k): the first k arrivals for each distribution of (F, vocabulary) ``draft``."""
        arrival = torch.empty_like(draft, dtype=torch.float64)
        arrival.exponential_(generator=self._generator)
        arrival = (arrival / draft).masked_fill(draft == 0, torch.inf)
        return arrival.topk(k, dim=-1, largest=False, sorted=True).indices

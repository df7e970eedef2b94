"""Which tokens a draft offers as children of a node: its likeliest ones, or ones drawn from it."""

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

    ``expected`` float32 (F, k) are each parent's k largest probabilities in falling order: what a
    policy may know. ``tokens`` int64 and ``probs`` float32, both (F, k), are the candidates in
    their order and what the draft gives each. ``draft`` (F, vocabulary) is the distribution that
    they were drawn from; None if nothing was drawn.
    """

    expected: np.ndarray
    tokens: np.ndarray
    probs: np.ndarray
    draft: Tensor | None = None

    def placed(self, growth: Growth) -> Growth:
        """``growth`` with ranks that say which candidates take the places that it asks for.

        Of drawn candidates a parent's m children are always the m that were drawn first, whatever
        ranks the policy named.
        """
        if self.draft is None or not len(growth.parents):
            return growth
        order = np.lexsort((growth.ranks, growth.parents))
        rows = growth.parents[order]
        ranks = np.empty_like(growth.ranks)
        ranks[order] = np.arange(len(rows)) - np.searchsorted(rows, rows)
        return replace(growth, ranks=ranks)


class CandidateSelector(Protocol):
    """Chooses candidates from a draft's scores."""

    def select(self, scores: Tensor, k: int) -> Candidates:
        """Up to k candidates for each row of (F, vocabulary) scores."""


class TopK:
    """The k likeliest tokens. They are what they are: nothing about them is random."""

    @torch.inference_mode()
    def select(self, scores: Tensor, k: int) -> Candidates:
        # Where every token is forbidden there is no distribution: all are impossible.
        probs, tokens = scores.softmax(dim=-1).nan_to_num_(0.0).topk(min(k, scores.shape[1]))
        if scores.device.type == "cpu":
            return Candidates(probs.numpy(), tokens.numpy(), probs.numpy())
        # One device-to-host copy.
        packed = torch.stack([probs.double(), tokens.double()]).cpu().numpy()
        known = packed[0].astype(np.float32)
        return Candidates(known, packed[1].astype(np.int64), known)


class Sampled:
    """k tokens drawn from the draft's own distribution, without replacement.

    A race: token x arrives after an exponential time with rate q(x). The order of arrival is that
    of drawing one after another without putting back (the Gumbel top-k trick in other words).

    What a policy gets to see are the k largest probabilities and not those of the tokens that
    were drawn. So how many children a node gets cannot depend on which ones were drawn there,
    without which the acceptance rule would be biased.

    Args:
        generator: on the device of the scores.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    @torch.inference_mode()
    def select(self, scores: Tensor, k: int) -> Candidates:
        k = min(k, scores.shape[1])
        draft = scores.softmax(dim=-1).nan_to_num(0.0).to(self._generator.device)
        tokens = self._order(draft, k)
        best, known = draft.topk(k, dim=-1).values, draft.gather(1, tokens)
        packed = torch.stack([best.double(), known.double(), tokens.double()])
        expected, probs, ids = packed.cpu().numpy()
        return Candidates(
            expected.astype(np.float32), ids.astype(np.int64), probs.astype(np.float32), draft
        )

    def _order(self, draft: Tensor, k: int) -> Tensor:
        """int64 (F, k): the first k tokens to arrive, for each row of (F, vocabulary) ``draft``."""
        arrival = torch.empty_like(draft, dtype=torch.float64)
        arrival.exponential_(generator=self._generator)
        arrival = (arrival / draft).masked_fill(draft == 0, torch.inf)
        return arrival.topk(k, dim=-1, largest=False, sorted=True).indices

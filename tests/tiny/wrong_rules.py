"""Acceptance rules and candidates that look right and are not: a test of sampling must tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sage_core.generation.candidates import Candidates, Sampled, TopK
from sage_core.generation.speculative_sampling import RecursiveRejection, SamplingStrategy


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class _NoResidual(RecursiveRejection):
    """Behind rejected candidates, draws from p as if nothing had been rejected."""

    def _decide(self, probs: Tensor, draft: Tensor, drawn: list[int]) -> int:
        for token in drawn:
            if self._accepts(float(probs[0, token]), float(draft[token])):
                return token
        return self._draw(probs)


class _WithReplacement(RecursiveRejection):
    """Treats each sibling as drawn from all of q, although those before it were taken out."""

    def _decide(self, probs: Tensor, draft: Tensor, drawn: list[int]) -> int:
        p, q = probs[0].double(), draft.double()
        for token in drawn:
            if self._accepts(float(p[token]), float(q[token])):
                return token
            rest = (p - q).clamp(min=0)
            if float(rest.sum()) <= 0:
                break
            p = rest / rest.sum()
        return self._draw(p[None])


class _LikeliestAsIfDrawn(TopK):
    """Says of the likeliest tokens that they were drawn."""

    def select(self, scores: Tensor, k: int) -> Candidates:
        return replace(super().select(scores, k), draft=scores.softmax(dim=-1))


class _Telling(Sampled):
    """Lets the policy see the probabilities of the tokens that were drawn."""

    def select(self, scores: Tensor, k: int) -> Candidates:
        offer = super().select(scores, k)
        return replace(offer, expected=offer.probs)


def wrong_choice(name: str) -> SamplingStrategy:
    """One of `WRONG`, with generators of its own."""
    return _MADE[name]()


_MADE: dict[str, Any] = {
    "no residual": lambda: SamplingStrategy(_NoResidual(_seeded(1)), Sampled(_seeded(2))),
    "as with replacement": lambda: SamplingStrategy(
        _WithReplacement(_seeded(1)), Sampled(_seeded(2))
    ),
    "likeliest taken for drawn": lambda: SamplingStrategy(
        RecursiveRejection(_seeded(1)), _LikeliestAsIfDrawn()
    ),
    "a policy that sees what was drawn": lambda: SamplingStrategy(
        RecursiveRejection(_seeded(1)), _Telling(_seeded(2))
    ),
}
WRONG = tuple(_MADE)

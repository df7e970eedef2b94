"""Speculative sampling on trees, with exactly the target's distribution.

The target's logits after temperature, top-k, top-p and the other processors are a distribution p
for each node's path (`TokenSequence.scores`). Texts must be distributed as if each token were
sampled from p given all tokens before it. The right rule depends on how candidates were selected.

``topk``: the candidates are the draft's likeliest tokens, which is deterministic. The token is
sampled from p, and the walk continues at the child that has it, if any. This is lossless by
construction, and optimal: given a candidate set C, no rule whose output follows p emits a token of
C with probability above p(C). One number is drawn per token, in order, so one seed gives one text
with every policy, the one that `generate` gives with that seed.

``drawn``: the candidates are sampled from the draft's distribution q without replacement. The
first, x, is accepted with probability min(1, p(x) / q(x)); on rejection p becomes the normalised
max(0, p - q), q loses x and is renormalised, and the next candidate is tried; after the last the
token is sampled from the residual p. This is recursive rejection sampling (SpecInfer, arXiv
2305.09781; EAGLE, arXiv 2401.15077) with q corrected for the samples already removed (RSD, arXiv
2402.14160). Each trial keeps the output distributed as p, given that x was sampled from the current
q: x is emitted with probability min(p, q), and the rest follows max(0, p - q).

The first rule on sampled candidates would be lossless but accept less. The second rule on top-k
candidates would be wrong: they are not a sample from q.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_core.generation.acceptance import AcceptRule, accept_greedy, follow
from sage_core.generation.candidates import CandidateSelector, Sampled, TopK
from sage_core.generation.sequence import TokenSequence
from sage_core.trees.steps import Acceptance, Proposal

OFF: dict[str, float | None] = {
    **{"temperature": None, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0},
    **{"top_h": None, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0},
}
"""Fields of a generation config that shape the sampling distribution, each with its neutral value
besides None."""


@dataclass(frozen=True)
class SamplingStrategy:
    """An acceptance rule and the candidate selection that it is valid for."""

    accept: AcceptRule
    candidates: CandidateSelector


def sampling_strategy(
    config: Any, candidates: str, seed: int | None, device: torch.device, draft_device: torch.device
) -> SamplingStrategy:
    """The acceptance rule and candidate selection for a merged generation config.

    Args:
        config: greedy unless its ``do_sample`` is set.
        candidates: ``topk`` or ``drawn``.
        seed: of all random numbers; None uses torch's global generator, as `generate` does.
        device: of the token ids.
        draft_device: of the draft's scores.
    """
    if not config.do_sample:
        return SamplingStrategy(accept_greedy, TopK())
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    if candidates == "topk":
        return SamplingStrategy(TargetSampling(generator), TopK())
    # Acceptance must be independent of the candidates, so they get a random stream of their own.
    base = int(torch.randint(2**62, ())) if seed is None else seed % 2**64
    derived = int(np.random.SeedSequence((base, 1)).generate_state(1, np.uint64)[0] >> np.uint64(1))
    sampler = torch.Generator(draft_device).manual_seed(derived)
    return SamplingStrategy(RecursiveRejection(generator), Sampled(sampler))


def sampling_fields(config: Any) -> dict[str, Any] | None:
    """Fields of `GenerationConfig` with an effect on the distribution; None if text is greedy."""
    if not config.do_sample:
        return None
    values = {name: getattr(config, name, None) for name in OFF}
    return {name: value for name, value in values.items() if value not in (None, OFF[name])}


class TargetSampling:
    """Sample each token from the target; continue at the child that has it.

    The rule for deterministic candidates, and for empty trees.

    Args:
        generator: on the device of the ids; None is torch's global one.
    """

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    @torch.inference_mode()
    def __call__(self, proposal: Proposal, logits: Tensor, text: TokenSequence) -> Acceptance:
        def choose(node: int) -> int:
            probs = text.scores(logits[node + 1 : node + 2]).softmax(dim=-1)
            return self._choose(proposal, node, probs)

        return follow(proposal.tree, text, choose)

    def _choose(self, proposal: Proposal, node: int, probs: Tensor) -> int:
        """The token after ``node``, given the target's distribution (1, vocabulary) there."""
        return self._draw(probs)

    def _draw(self, probs: Tensor) -> int:
        return int(torch.multinomial(probs, num_samples=1, generator=self.generator))


class RecursiveRejection(TargetSampling):
    """Recursive rejection sampling: accept or reject children in the order of sampling.

    At nodes without sampled children (not in ``proposal.draws``) it samples from the target, as
    `TargetSampling` does.

    Args:
        generator: on the device of the ids, independent of the one that sampled the candidates;
            None is torch's global one.

    Raises:
        RuntimeError: the tree lacks a sampled candidate before one that it has.
    """

    def _choose(self, proposal: Proposal, node: int, probs: Tensor) -> int:
        tree, draws = proposal.tree, proposal.draws
        if node not in draws:
            return self._draw(probs)
        children = sorted(tree.children(node), key=tree.ranks.__getitem__)
        if [tree.ranks[child] for child in children] != list(range(len(children))):
            raise RuntimeError("a tree of sampled candidates lacks some of them")
        return self._decide(probs, draws[node], [tree.tokens[child] for child in children])

    def _decide(self, probs: Tensor, draft: Tensor, drawn: list[int]) -> int:
        """The next token, from p (1, vocabulary), q (vocabulary,) and the ordered samples of q."""
        p = probs[0].double()
        q = torch.zeros_like(p)  # the draft's vocabulary may be smaller
        q[: len(draft)] = draft.to(p)
        q /= q.sum()
        for token in drawn:
            if self._accepts(float(p[token]), float(q[token])):
                return token
            rest = (p - q).clamp_(min=0)
            total = rest.sum()
            if float(total) <= 0:  # p equals q up to rounding, and so was the rejection
                break
            p = rest / total
            q[token] = 0
            q /= q.sum().clamp(min=torch.finfo(q.dtype).tiny)
        return self._draw(p[None])

    def _accepts(self, p: float, q: float) -> bool:
        """Accept a sample of probability q with probability min(1, p / q)."""
        return self._uniform() * q < p

    def _uniform(self) -> float:
        device = None if self.generator is None else self.generator.device
        return float(torch.rand((), generator=self.generator, dtype=torch.double, device=device))

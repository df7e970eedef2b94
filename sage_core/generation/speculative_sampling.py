"""Sampling with exactly the target's own distribution, on any tree.

What a target's logits become, temperature, top-k, top-p and the rest, is a distribution p for each
node's own path (`TokenSequence.scores`). The text must be distributed as if each token were drawn from p
given all before it. Which rule is right depends on how a node's candidates came about.

``topk``: the candidates are the draft's likeliest tokens, which no chance had a part in. Then the
token is simply drawn from p, and the walk goes on below the child that carries it, if one does.
It is lossless by construction, since every token *is* drawn from p, and nothing accepts more: with
a given set C of candidates, no rule whose output follows p can put out one of C more often than
p(C), and this one does it exactly so often. It also draws one number a token, in order, whatever
the tree: one seed gives one text under every policy, and it is the text that `generate` writes
under the same seed.

``drawn``: the candidates are drawn from the draft's own distribution q, without replacement. The
first, x, is accepted with probability min(1, p(x) / q(x)); if it is not, p becomes the normalised
max(0, p - q), q loses x and is normalised again, and the next one is looked at; behind the last
the token is drawn from what is left of p. That is recursive rejection sampling (SpecInfer, arXiv
2305.09781; EAGLE, arXiv 2401.15077) with q corrected for what has been drawn already (RSD, arXiv
2402.14160). Each look leaves the output distributed as p given that x came from the current q:
x is put out with probability min(p, q), and the rest follows max(0, p - q).

Applying the first rule to drawn candidates would be lossless too, but accept less. Applying the
second to the likeliest ones would be wrong: they are not a draw from q.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sage_core.generation.acceptance import AcceptRule, accept_greedy, follow
from sage_core.generation.candidates import CandidateSelector, Sampled, TopK
from sage_core.generation.sequence import TokenSequence
from sage_core.trees.steps import Acceptance

if TYPE_CHECKING:
    from sage_core.trees.steps import Proposal

OFF: dict[str, float | None] = {
    "temperature": None,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "top_h": None,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
"""Fields of a generation config that shape the distribution a token is drawn from, and the value
besides None at which each does nothing."""


@dataclass(frozen=True)
class SamplingStrategy:
    """How one text's tokens are chosen: the rule, and the candidates that it is right for."""

    accept: AcceptRule
    candidates: CandidateSelector


def sampling_strategy(
    config: Any,
    candidates: str,
    seed: int | None,
    device: torch.device,
    draft_device: torch.device,
) -> SamplingStrategy:
    """The rule and the candidates that a prepared generation config asks for.

    Args:
        config: it samples or it does not; a greedy text draws nothing.
        candidates: ``topk`` or ``drawn``.
        seed: of everything that is drawn; None draws from torch's global generator, as
            `generate` does.
        device: where the text is.
        draft_device: where the draft's scores are.
    """
    if not config.do_sample:
        return SamplingStrategy(accept_greedy, TopK())
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    if candidates == "topk":
        return SamplingStrategy(TargetSampling(generator), TopK())
    # What decides about a candidate must be independent of what drew it: a stream of its own.
    base = int(torch.randint(2**62, ())) if seed is None else seed
    derived = int(np.random.SeedSequence((base, 1)).generate_state(1, np.uint64)[0] >> np.uint64(1))
    drawing = torch.Generator(draft_device).manual_seed(derived)
    return SamplingStrategy(RecursiveRejection(generator), Sampled(drawing))


def sampling_fields(config: Any) -> dict[str, Any] | None:
    """What shapes the distribution, by the names of `GenerationConfig`; None if text is greedy."""
    if not config.do_sample:
        return None
    values = {name: getattr(config, name, None) for name in OFF}
    return {name: value for name, value in values.items() if value not in (None, OFF[name])}


class TargetSampling:
    """Draw each token from the target's own distribution; go on where a child carries it.

    The rule for candidates that nothing random chose, and for no tree at all.

    Args:
        generator: on the text's device; None is torch's global one.
    """

    def __init__(self, generator: torch.Generator | None) -> None:
        self._generator = generator

    @torch.inference_mode()
    def __call__(self, proposal: Proposal, logits: Tensor, text: TokenSequence) -> Acceptance:
        def choose(node: int) -> int:
            probs = text.scores(logits[node + 1 : node + 2]).softmax(dim=-1)
            return self._draw(probs)

        return follow(proposal.tree, text, choose)

    def _draw(self, probs: Tensor) -> int:
        return int(torch.multinomial(probs, num_samples=1, generator=self._generator))


class RecursiveRejection:
    """Accept or reject a node's children in the order they were drawn in.

    Nodes whose children were not drawn (``proposal.draws`` does not have them) are left as
    `TargetSampling` leaves them.

    Args:
        generator: on the text's device, independent of what drew the candidates; None is torch's
            global one.
    """

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    @torch.inference_mode()
    def __call__(self, proposal: Proposal, logits: Tensor, text: TokenSequence) -> Acceptance:
        tree, draws = proposal.tree, proposal.draws

        def choose(node: int) -> int:
            probs = text.scores(logits[node + 1 : node + 2]).softmax(dim=-1)
            if node not in draws:
                return self._draw(probs)
            children = sorted(tree.children(node), key=tree.ranks.__getitem__)
            if [tree.ranks[child] for child in children] != list(range(len(children))):
                raise RuntimeError("a tree of drawn candidates has lost some of them")
            return self._decide(probs, draws[node], [tree.tokens[child] for child in children])

        return follow(tree, text, choose)

    def _decide(self, probs: Tensor, draft: Tensor, drawn: list[int]) -> int:
        """The next token, given (1, vocabulary) p, (vocabulary,) q and what was drawn from q."""
        p = probs[0].double()
        q = torch.zeros_like(p)  # the draft's vocabulary may be the smaller one
        q[: len(draft)] = draft.to(p)
        q /= q.sum()
        for token in drawn:
            if self._accepts(float(p[token]), float(q[token])):
                return token
            rest = (p - q).clamp_(min=0)
            total = rest.sum()
            if float(total) <= 0:  # p and q are equal up to rounding: rejecting was rounding too
                break
            p = rest / total
            q[token] = 0
            q /= q.sum().clamp(min=torch.finfo(q.dtype).tiny)
        return self._draw(p[None])

    def _accepts(self, p: float, q: float) -> bool:
        """Whether a token that was drawn with probability q is kept: with chance min(1, p / q)."""
        return self._uniform() * q < p

    def _uniform(self) -> float:
        device = None if self.generator is None else self.generator.device
        return float(torch.rand((), generator=self.generator, dtype=torch.double, device=device))

    def _draw(self, probs: Tensor) -> int:
        return int(torch.multinomial(probs, num_samples=1, generator=self.generator))

"""Lossy acceptance rules: they may accept tokens that the target would not emit. Experimental.

Tokens of probability 0, which a processor or grammar forbids, are never accepted. The papers do not
have this restriction.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sage_core.generation.acceptance import accept_greedy, follow
from sage_core.generation.lossy import Ears, Lossy, SpecVla, check_sampled
from sage_core.generation.sequence import TokenSequence
from sage_core.generation.speculative_sampling import RecursiveRejection, SamplingStrategy
from sage_core.trees.steps import Acceptance, Proposal


def with_lossy_acceptance(choice: SamplingStrategy, lossy: Lossy | None) -> SamplingStrategy:
    """``choice`` with its acceptance rule replaced by ``lossy``; unchanged if that is None.

    Raises:
        UnsupportedError: the rule is for greedy decoding and this samples, or the reverse.
    """
    if lossy is None:
        return choice
    check_sampled(lossy, choice.accept is not accept_greedy)
    if isinstance(lossy, SpecVla):
        return replace(choice, accept=NearestAction(lossy))
    if isinstance(lossy, Ears) and isinstance(choice.accept, RecursiveRejection):
        return replace(choice, accept=TolerantRejection(choice.accept.generator, lossy.tolerance))
    raise TypeError(f"no rule for {lossy}")


class TolerantRejection(RecursiveRejection):
    """EARS (arXiv 2512.13194): rejection sampling with a tolerance that grows with 1 - max p.

    The paper has one candidate per node. On a tree, every sibling gets the tolerance of the node's
    original p, not of the residual that earlier rejections left. ``tolerance`` is that where max p
    approaches 0.
    """

    def __init__(self, generator: torch.Generator | None, tolerance: float) -> None:
        super().__init__(generator)
        self._tolerance = tolerance
        self._slack = 0.0

    def _decide(self, probs: Tensor, draft: Tensor, drawn: list[int]) -> int:
        self._slack = self._tolerance * (1 - float(probs.max()))
        return super()._decide(probs, draft, drawn)

    def _accepts(self, p: float, q: float) -> bool:
        return p > 0 and (self._uniform() - self._slack) * q < p


class NearestAction:
    """Spec-VLA (arXiv 2507.22424): accept the drafted action token nearest to the target's choice.

    Only within the radius; of two equally near ones that of the lower draft rank.
    """

    def __init__(self, rule: SpecVla) -> None:
        self._rule = rule

    @torch.inference_mode()
    def __call__(self, proposal: Proposal, logits: Tensor, text: TokenSequence) -> Acceptance:
        tree = proposal.tree

        def choose(node: int) -> int:
            scores = text.scores(logits[node + 1 : node + 2])[0]
            best = int(scores.argmax())
            if not self._is_action(best):
                return best
            near = [
                (abs(tree.tokens[child] - best), tree.ranks[child], tree.tokens[child])
                for child in tree.children(node)
                if self._is_action(tree.tokens[child])
                and abs(tree.tokens[child] - best) <= self._rule.radius
                and bool(scores[tree.tokens[child]] > -torch.inf)
            ]
            return min(near)[2] if near else best

        return follow(tree, text, choose)

    def _is_action(self, token: int) -> bool:
        return self._rule.first <= token <= self._rule.last

"""The acceptance rules of `lossy`: what they accept is not always what the target would put out.

A token that the target gives no probability at all, because a processor or a grammar forbids it, is
accepted by none of them. That is this project's own limit; the papers have none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sage_core.generation.acceptance import accept_greedy, follow
from sage_core.generation.lossy import Ears, Lossy, SpecVla, check_sampled
from sage_core.generation.sequence import TokenSequence
from sage_core.generation.speculative_sampling import RecursiveRejection, SamplingStrategy
from sage_core.trees.steps import Acceptance

if TYPE_CHECKING:
    from sage_core.trees.steps import Proposal

__all__ = ["NearestAction", "TolerantRejection", "with_lossy_acceptance"]


def with_lossy_acceptance(choice: SamplingStrategy, lossy: Lossy | None) -> SamplingStrategy:
    """``choice`` with a lossy rule in the place of the right one; as it is without.

    Raises:
        UnsupportedError: the rule is for greedy text and this is sampled, or the reverse.
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
    """EARS: rejection sampling whose threshold falls as the target grows unsure.

    The paper has one candidate a node. On a tree each look at a sibling gets the tolerance of the
    node's own p, which is not what the rejections before have left of it.

    Args:
        generator: as for `RecursiveRejection`.
        tolerance: at a target that knows nothing.
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
    """Spec-VLA: where the target's choice is an action token, take the nearest drafted one.

    The target's own choice comes first, then the nearest within the radius, of two equally near
    the one that the draft likes better.
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

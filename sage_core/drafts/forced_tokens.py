"""Drafting of tokens that a grammar forces."""

from __future__ import annotations

from torch import Tensor

from sage_core.drafts.drafter import Drafter
from sage_core.generation.json_schema import JsonGrammar
from sage_core.generation.sequence import TokenSequence
from sage_core.runtime.passes import Passes
from sage_core.runtime.runner import PromptOutputs
from sage_core.trees.policy import TreePlanner
from sage_core.trees.steps import Acceptance, Proposal, Shape
from sage_core.trees.tree import ROOT, TokenTree

FORCED_LEAST = 2
"""Fewer forced tokens than these are left to the draft, which also drafts after them."""


class ForcedDrafter(Drafter):
    """Proposes the tokens that a grammar forces, without a draft pass; otherwise uses ``inner``.

    The target verifies them: it may tokenize the forced text otherwise. The policy's planner does
    not observe these steps.
    """

    def __init__(self, inner: Drafter, grammar: JsonGrammar) -> None:
        self._inner = inner
        self._grammar = grammar
        self.needs_features = inner.needs_features

    @property
    def started(self) -> bool:
        return self._inner.started

    def prefill(self, first: int, prompt: PromptOutputs) -> Passes[None]:
        yield from self._inner.prefill(first, prompt)

    def propose(self, planner: TreePlanner, sequence: TokenSequence) -> Passes[Proposal]:
        forced = self._grammar.forced(sequence.ids)[: max(0, sequence.remaining - 1)]
        count = len(forced)
        if count < FORCED_LEAST:
            return (yield from self._inner.propose(planner, sequence))
        tree = TokenTree(
            tokens=tuple(forced),
            parents=(ROOT, *range(count - 1)),
            probs=(1.0,) * count,
            ranks=(0,) * count,
        )
        return Proposal(tree, Shape(count, 1.0, None, "forced by the grammar"))

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        self._inner.observe(tree, outcome, hidden)

"""TODO docstring."""

from __future__ import annotations

from torch import Tensor

from sage_core.drafts.drafter import Drafter
from sage_core.generation.json_schema import JsonGrammar
from sage_core.generation.sequence import TokenSequence
from sage_core.trees.policy import TreePlanner
from sage_core.trees.steps import Acceptance, Proposal, Shape
from sage_core.trees.tree import ROOT, TokenTree

FORCED_LEAST = 2
"""Fewer forced tokens than these are left to the draft, which goes on behind them."""


class ForcedDrafter:
    """Proposes what a grammar leaves no choice about, without a draft pass; else asks another.

    The target still verifies: where the grammar leaves the tokenization open it may write the
    forced text in other tokens.
    """

    def __init__(self, inner: Drafter, grammar: JsonGrammar) -> None:
        self._inner = inner
        self._grammar = grammar

    def prefill(self, first: int) -> None:
        self._inner.prefill(first)

    def propose(self, planner: TreePlanner, text: TokenSequence) -> Proposal:
        forced = self._grammar.forced(text.ids)[: max(0, text.remaining - 1)]
        if len(forced) < FORCED_LEAST:
            return self._inner.propose(planner, text)
        planner.plan()  # policies count on a plan for every step that they observe
        count = len(forced)
        tree = TokenTree(
            tokens=tuple(forced),
            parents=(ROOT, *range(count - 1)),
            probs=(1.0,) * count,
            ranks=(0,) * count,
        )
        return Proposal(tree, Shape(count, 1.0, None, "forced by the grammar"))

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        self._inner.observe(tree, outcome, hidden)

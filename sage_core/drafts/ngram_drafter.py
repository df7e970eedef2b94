"""Drafting by n-gram lookup, without a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from sage_core.drafts.drafter import PasslessDrafter
from sage_core.drafts.ngram import Match, Ngram, NgramIndex
from sage_core.generation.sequence import TokenSequence
from sage_core.trees.policy import TreePlanner
from sage_core.trees.steps import Acceptance, Proposal, Shape
from sage_core.trees.tree import ROOT, TokenTree


class NgramDrafter(PasslessDrafter):
    """Proposes continuations of earlier occurrences of the last tokens.

    Args:
        options: of the lookup.
        prompt: the prompt's ids, with `NO_TOKEN` for those that are not text.
        limit: most nodes of a tree, whatever ``options`` says.
    """

    def __init__(self, options: Ngram, prompt: Iterable[int], limit: int) -> None:
        self._o = replace(options, nodes=min(options.nodes, limit))
        self._index = NgramIndex(self._o)
        self._index.extend(prompt)

    def start(self, first: int) -> None:
        self._index.extend([first])

    def find(self, sequence: TokenSequence) -> Match:
        """A tree of continuations of ``sequence``."""
        return self._index.find(min(self._o.length, sequence.remaining - 1), self._o.nodes)

    def draft(self, planner: TreePlanner, sequence: TokenSequence) -> Proposal:
        return self.proposal(self.find(sequence))

    def proposal(self, match: Match) -> Proposal:
        """A match as a proposal."""
        width = float(len(match.tree.children(ROOT)))
        note = f"the last {match.length} tokens stood before" if match.length else "no match"
        return Proposal(match.tree, Shape(match.tree.depth, width, None, note))

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        self._index.extend(outcome.tokens)

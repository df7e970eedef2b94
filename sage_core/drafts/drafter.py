"""Drafters propose a tree a step; `TreeDrafter` grows it under a policy's shaper."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sage_core.generation.sequence import TokenSequence
from sage_core.trees.policy import TreePlanner
from sage_core.trees.steps import Acceptance, Proposal
from sage_core.trees.tree import TokenTree


class Drafter(Protocol):
    """Proposes trees. A lookup table, a head on the target or a draft model all fit behind this."""

    def prefill(self, first: int) -> None:
        """Read the prompt and take the text's first token, which the target's prefill gave."""

    def propose(self, planner: TreePlanner, text: TokenSequence) -> Proposal:
        """Draft a tree of continuations of ``text``, at most ``text.remaining - 1`` levels deep."""

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        """Learn what was committed. ``hidden`` (nodes + 1, size) are the target's last hidden
        states of the root and the verified nodes, for drafts that feed on them."""


class NoDrafter:
    """Proposes nothing, so that the loop decodes one token a step."""

    def prefill(self, first: int) -> None:
        pass

    def propose(self, planner: TreePlanner, text: TokenSequence) -> Proposal:
        return Proposal()

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        pass

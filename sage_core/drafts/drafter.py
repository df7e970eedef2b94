"""The interface of a draft, as the decoding loop uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from sage_core.generation.sequence import TokenSequence
from sage_core.runtime.passes import Passes
from sage_core.runtime.runner import PromptOutputs
from sage_core.trees.policy import TreePlanner
from sage_core.trees.steps import Acceptance, Proposal
from sage_core.trees.tree import TokenTree


class Drafter(ABC):
    """Proposes trees of continuations. Forward passes are yielded, see `runtime.passes`.

    A draft that makes no passes is a `PasslessDrafter`.
    """

    needs_features: bool = False
    """Whether `prefill` needs the target's hidden states, embeddings and positions."""

    @property
    def started(self) -> bool:
        """Whether the draft has read a prompt that a later text may continue."""
        return False

    @abstractmethod
    def prefill(self, first: int, prompt: PromptOutputs) -> Passes[None]:
        """Read the prompt and take the first token of the text.

        Args:
            first: the token after the prompt, by the target.
            prompt: the target's outputs.
        """

    @abstractmethod
    def propose(self, planner: TreePlanner, sequence: TokenSequence) -> Passes[Proposal]:
        """Draft a tree of continuations, at most ``sequence.remaining - 1`` levels deep."""

    @abstractmethod
    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        """Take the outcome of a step.

        Args:
            tree: the verified tree.
            outcome: its accepted path and the committed tokens.
            hidden: (nodes + 1, hidden) the target's last hidden states, root first.
        """


class PasslessDrafter(Drafter):
    """A draft that makes no forward passes: a subclass implements `draft`."""

    def start(self, first: int) -> None:
        """Take the first token of the text."""

    @abstractmethod
    def draft(self, planner: TreePlanner, sequence: TokenSequence) -> Proposal:
        """As `Drafter.propose`, without passes."""

    def prefill(self, first: int, prompt: PromptOutputs) -> Passes[None]:
        self.start(first)
        return
        yield  # a generator without passes

    def propose(self, planner: TreePlanner, sequence: TokenSequence) -> Passes[Proposal]:
        return self.draft(planner, sequence)
        yield

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        """Does nothing by default."""


class NoDrafter(PasslessDrafter):
    """Proposes nothing: autoregressive decoding."""

    def draft(self, planner: TreePlanner, sequence: TokenSequence) -> Proposal:
        return Proposal()

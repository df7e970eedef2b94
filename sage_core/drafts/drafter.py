"""What the decoding loop asks of a draft."""

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
        """Whether the draft holds a prompt that a further text may go on from."""
        return False

    @abstractmethod
    def prefill(self, first: int, prompt: PromptOutputs) -> Passes[None]:
        """Read the prompt and take the first token of the text.

        Args:
            first: the token that the target's prefill gave.
            prompt: what the target computed for the prompt.
        """

    @abstractmethod
    def propose(self, planner: TreePlanner, sequence: TokenSequence) -> Passes[Proposal]:
        """Draft a tree of continuations, at most ``sequence.remaining - 1`` levels deep."""

    @abstractmethod
    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        """Take what was committed.

        Args:
            tree: the verified tree.
            outcome: its accepted path and the committed tokens.
            hidden: (nodes + 1, hidden) the target's last hidden states of the root and the nodes.
        """


class PasslessDrafter(Drafter):
    """A draft that makes no forward passes: a subclass has `draft`."""

    def start(self, first: int) -> None:
        """Take the first token of the text."""

    @abstractmethod
    def draft(self, planner: TreePlanner, sequence: TokenSequence) -> Proposal:
        """As `Drafter.propose`, without passes."""

    def prefill(self, first: int, prompt: PromptOutputs) -> Passes[None]:
        self.start(first)
        return
        yield  # a generator that makes no pass

    def propose(self, planner: TreePlanner, sequence: TokenSequence) -> Passes[Proposal]:
        return self.draft(planner, sequence)
        yield

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        """Nothing, unless a subclass needs what was committed."""


class NoDrafter(PasslessDrafter):
    """Proposes nothing: the loop then decodes one token a step."""

    def draft(self, planner: TreePlanner, sequence: TokenSequence) -> Proposal:
        return Proposal()

"""The interface of an option that changes drafting or acceptance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sage_core.trees.policy import Policy, TreePlanner

if TYPE_CHECKING:
    from sage_core.drafts.drafter import Drafter
    from sage_core.drafts.pruning.draft_prompt import DraftPrompt
    from sage_core.drafts.tree_drafter import TreeDrafter
    from sage_core.engine.loop import Decoding
    from sage_core.generation.prepare import Prepared
    from sage_core.generation.speculative_sampling import SamplingStrategy
    from sage_core.runtime.runner import Runner


@dataclass(frozen=True, eq=False)
class DecodingContext:
    """What one text is decoded with, and nothing that an extension may change."""

    target: Runner
    prepared: Prepared
    policy: Policy
    draft_prompt: DraftPrompt
    model: TreeDrafter | None
    """The drafter that runs a draft model or head; None without one."""
    kept: dict[str, Any]
    """What extensions keep from text to text of one conversation, by their name."""


@dataclass(frozen=True, eq=False)
class DecodingParts:
    """What drafts, plans and accepts in one text: what an extension may put something around."""

    drafter: Drafter
    planner: TreePlanner
    strategy: SamplingStrategy
    """The acceptance rule with the candidates that it is right for."""
    around: tuple[Callable[[Decoding], Decoding], ...] = ()
    """Generators around the passes and steps of the text, innermost first."""


class DecodingExtension(ABC):
    """An option that changes drafting or acceptance. Subclasses are frozen dataclasses.

    ``str`` gives the option's value as text.
    """

    name: ClassVar[str]
    """The option, as an argument of `SpeculativeDecoder`."""
    option: ClassVar[str] = ""
    """The field of `sage_core.Options` that holds it, if it is not called ``name``."""
    drafts: ClassVar[bool] = False
    """Whether it brings a draft of its own, so that no draft model is needed."""
    lossless: ClassVar[bool] = True
    """Whether the text stays the target's own."""
    single_text: ClassVar[bool] = False
    """Whether it observes the target's layers, and so needs the eager passes of one text alone."""
    order: ClassVar[int] = 0
    """Lower orders are applied first, that is inside."""

    @classmethod
    @abstractmethod
    def parse(cls, value: Any) -> Self:
        """The extension that a value of the option asks for.

        Raises:
            OptionError: a value that makes no sense.
        """

    def check(self, policy: Policy, candidates: str, *, draft: bool) -> None:  # noqa: B027
        """Refuse a combination that cannot work. No model is loaded yet.

        Args:
            policy: the tree policy.
            candidates: how candidates are chosen, ``topk`` or ``drawn``.
            draft: whether a draft model or head drafts.

        Raises:
            OptionError, UnsupportedError: saying what to leave out.
        """

    def bind(self, target: Any, draft: Any) -> Self:
        """The extension for two loaded models; ``draft`` is None without one.

        Raises:
            OptionError, UnsupportedError: it does not go with these models.
        """
        return self

    @property
    def more_nodes(self) -> int:
        """Nodes of a tree at most beyond those of the policy, for reserving memory."""
        return 0

    @abstractmethod
    def wrap(self, parts: DecodingParts, context: DecodingContext) -> DecodingParts:
        """The parts of one text, with something around them. Called before its prompt is read."""

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
    """What extensions may read of one text's decoding."""

    target: Runner
    prepared: Prepared
    policy: Policy
    draft_prompt: DraftPrompt
    model: TreeDrafter | None
    """The drafter that runs a draft model or head; None without one."""
    kept: dict[str, Any]
    """State that extensions keep between texts of a conversation, by their name."""


@dataclass(frozen=True, eq=False)
class DecodingParts:
    """The parts of one text's decoding, which an extension may wrap."""

    drafter: Drafter
    planner: TreePlanner
    strategy: SamplingStrategy
    """The acceptance rule, with the choice of candidates that it needs."""
    around: tuple[Callable[[Decoding], Decoding], ...] = ()
    """Generators around the passes and steps of the text, innermost first."""


class DecodingExtension(ABC):
    """An option that changes drafting or acceptance. Subclasses are frozen dataclasses.

    ``str`` of one is the option's value.
    """

    name: ClassVar[str]
    """The option, as an argument of `SpeculativeDecoder`."""
    option: ClassVar[str] = ""
    """The field of `sage_core.Options` that holds it, if it is not called ``name``."""
    drafts: ClassVar[bool] = False
    """Whether it drafts itself, so that no draft model is needed."""
    lossless: ClassVar[bool] = True
    """Whether the text stays the target's own."""
    single_text: ClassVar[bool] = False
    """Whether it needs eager passes over one text, for example to observe the target's layers."""
    order: ClassVar[int] = 0
    """Extensions of lower order are applied first, inside the others."""

    @classmethod
    @abstractmethod
    def parse(cls, value: Any) -> Self:
        """The extension for a value of the option.

        Raises:
            OptionError: an invalid value.
        """

    def check(self, policy: Policy, candidates: str, *, draft: bool) -> None:  # noqa: B027
        """Refuse a combination that does not work. No model is loaded yet.

        Args:
            policy: the tree policy.
            candidates: ``topk`` or ``drawn``.
            draft: whether there is a draft model or head.

        Raises:
            OptionError, UnsupportedError: says what to leave out.
        """

    def bind(self, target: Any, draft: Any) -> Self:
        """The extension for two loaded models; ``draft`` is None without one.

        Raises:
            OptionError, UnsupportedError: it does not work with these models.
        """
        return self

    @property
    def more_nodes(self) -> int:
        """Most nodes of a tree beyond the policy's, for reserving memory."""
        return 0

    @abstractmethod
    def wrap(self, parts: DecodingParts, context: DecodingContext) -> DecodingParts:
        """The parts of one text, wrapped. Called before the prefill."""

"""Reduced draft vocabulary (FR-Spec, arXiv 2502.14856): logits of a list of tokens only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sage_core.drafts.vocab.token_list import as_asked
from sage_core.engine.extensions.base import DecodingContext, DecodingExtension, DecodingParts
from sage_core.errors import OptionError
from sage_core.trees.policy import Policy

if TYPE_CHECKING:
    from sage_core.drafts.vocab.reduced_lm_head import ReducedHead


@dataclass(frozen=True, eq=False)
class ReducedVocabulary(DecodingExtension):
    """The tokens that the draft computes logits of; the target's end tokens are always included.

    Takes ids, a `DraftVocab` or a `ReducedHead`; in `sage_core.Options` any form of
    `drafts.vocab.token_list.Asked`.
    """

    tokens: Any
    head: ReducedHead | None = None
    """The chosen rows of the draft's output head, once bound to models."""

    name: ClassVar[str] = "draft_vocab"

    @classmethod
    def parse(cls, value: Any) -> Self:
        return cls(value if hasattr(value, "scatter_logits") else as_asked(value))

    def __str__(self) -> str:
        return f"{len(self.head)} tokens" if self.head is not None else "a list of tokens"

    def check(self, policy: Policy, candidates: str, *, draft: bool) -> None:
        if not draft or not policy.drafts:
            raise OptionError(
                "draft_vocab needs a draft model: pass one with a policy that drafts, or leave "
                "draft_vocab out"
            )

    def bind(self, target: Any, draft: Any) -> Self:
        from sage_core.drafts.vocab.reduced_lm_head import reduced_head

        return replace(self, head=reduced_head(target, draft, self.tokens))

    def wrap(self, parts: DecodingParts, context: DecodingContext) -> DecodingParts:
        if context.model is not None and self.head is not None:
            context.model.use_reduced_lm_head(self.head)
        return parts

"""Lookup: branches, or whole drafts, of what followed the same words before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from sage_core.drafts.ngram import BREAK, Ngram, as_ngram
from sage_core.engine.extensions.base import DecodingContext, DecodingExtension, DecodingParts
from sage_core.errors import OptionError, UnsupportedError
from sage_core.trees.policies.autoregressive import Autoregressive
from sage_core.trees.policy import Policy


@dataclass(frozen=True)
class Lookup(DecodingExtension):
    """N-gram lookup in the text so far: in place of a draft, or beside it while it pays."""

    options: Ngram

    name: ClassVar[str] = "lookup"
    option: ClassVar[str] = "draft_lookup"
    drafts: ClassVar[bool] = True

    @classmethod
    def parse(cls, value: Any) -> Self:
        return cls(Ngram() if value is True else as_ngram(value))

    def __str__(self) -> str:
        return str(self.options)

    @property
    def more_nodes(self) -> int:
        return self.options.nodes

    def check(self, policy: Policy, candidates: str, *, draft: bool) -> None:
        if not policy.drafts:
            raise OptionError(
                f"policy {policy.name} verifies no drafts: leave the lookup out, or name another "
                "policy"
            )
        if candidates == "drawn":
            raise UnsupportedError(
                "candidates drawn do not go with branches that are looked up: use candidates topk"
            )

    def wrap(self, parts: DecodingParts, context: DecodingContext) -> DecodingParts:
        from sage_core.drafts.ngram_drafter import NgramDrafter
        from sage_core.drafts.ngram_hybrid import HybridDrafter, Payoff

        words = _words(context)
        if context.model is None:  # nothing is grown: of the policy only its node limit is used
            alone = NgramDrafter(self.options, words, context.policy.max_nodes)
            return replace(parts, drafter=alone, planner=Autoregressive().planner())
        lookup = NgramDrafter(self.options, words, self.options.nodes)
        payoff = context.kept.setdefault(self.name, Payoff(self.options.price))
        return replace(parts, drafter=HybridDrafter(parts.drafter, lookup, payoff))


def _words(context: DecodingContext) -> list[int]:
    """The prompt's ids, with breaks for images and for ids that the target cannot embed."""
    from sage_core.models.inputs import visual_mask

    ids = context.prepared.input_ids[0]
    no_words = visual_mask(context.target.model.config, ids) | (ids >= context.target.vocab_size)
    words: list[int] = ids.masked_fill(no_words, BREAK).tolist()
    return words

"""N-gram lookup in the text so far, as a draft or beside one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from sage_core.drafts.ngram import NO_TOKEN, Ngram, as_ngram
from sage_core.engine.extensions.base import DecodingContext, DecodingExtension, DecodingParts
from sage_core.errors import OptionError, UnsupportedError
from sage_core.trees.policies.autoregressive import Autoregressive
from sage_core.trees.policy import Policy


@dataclass(frozen=True)
class Lookup(DecodingExtension):
    """N-gram lookup: without a draft model, or beside one while its branches pay."""

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
                f"policy {policy.name} verifies no drafts: leave the lookup out, or use another one"
            )
        if candidates == "drawn":
            raise UnsupportedError(
                "candidates drawn cannot be combined with lookup: use candidates topk"
            )

    def wrap(self, parts: DecodingParts, context: DecodingContext) -> DecodingParts:
        from sage_core.drafts.ngram_hybrid import HybridDrafter, LookupGains, NgramDrafter

        ids = _text_ids(context)
        if context.model is None:  # of the policy only the node limit is used
            alone = NgramDrafter(self.options, ids, context.policy.max_nodes)
            return replace(parts, drafter=alone, planner=Autoregressive().planner())
        lookup = NgramDrafter(self.options, ids, self.options.nodes)
        gains = context.kept.setdefault(self.name, LookupGains(self.options.price))
        return replace(parts, drafter=HybridDrafter(parts.drafter, lookup, gains))


def _text_ids(context: DecodingContext) -> list[int]:
    """The prompt's ids, with `NO_TOKEN` for images and ids that the target cannot embed."""
    from sage_core.models.inputs import visual_mask

    ids = context.prepared.input_ids[0]
    other = visual_mask(context.target.model.config, ids) | (ids >= context.target.vocab_size)
    return ids.masked_fill(other, NO_TOKEN).tolist()

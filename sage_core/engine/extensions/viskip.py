"""ViSkip (experimental): no drafts while attention is on the image (MMSpec, arXiv 2603.14989).

Small drafts predict tokens that depend on the image badly. So nothing is drafted after a token
that gave much of its attention to visual tokens. The text stays the target's own: only the shape
of trees changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from sage_core.engine.extensions.base import DecodingContext, DecodingExtension, DecodingParts
from sage_core.errors import OptionError
from sage_core.trees.policy import Policy


@dataclass(frozen=True)
class ViSkip(DecodingExtension):
    """Draft nothing if at least this share of the attention is on visual tokens.

    Raises:
        OptionError: a share that is not above 0 and at most 1.
    """

    share: float = 0.35

    name: ClassVar[str] = "viskip"
    single_text: ClassVar[bool] = True
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if isinstance(self.share, bool) or not 0 < self.share <= 1:
            raise OptionError(f"viskip must be above 0 and at most 1: {self.share}")

    @classmethod
    def parse(cls, value: Any) -> Self:
        return cls(value)

    def __str__(self) -> str:
        return str(self.share)

    def check(self, policy: Policy, candidates: str, *, draft: bool) -> None:
        if not (draft and policy.drafts):
            raise OptionError("viskip needs a draft model and a policy that drafts: leave it out")

    def wrap(self, parts: DecodingParts, context: DecodingContext) -> DecodingParts:
        from sage_core.engine.visual_attention import ViSkipPlanner, VisualAttention

        if not context.draft_prompt.visual_tokens:
            return parts
        attention = VisualAttention(context.target, context.draft_prompt.visual_positions)
        planner = ViSkipPlanner(parts.planner, attention, self.share)
        return replace(parts, planner=planner, around=(*parts.around, attention.around))

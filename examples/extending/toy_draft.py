"""A draft in one file: the text so far is repeated from a fixed distance.

It makes no forward passes, so it is a `PasslessDrafter`; a draft that makes some is a `Drafter`
whose methods yield them. It is passed to a decoder as an extension that brings its own drafter:
``SpeculativeDecoder(target, extensions=[Repeat(period=12)])``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from sage_core.drafts.drafter import PasslessDrafter
from sage_core.engine.extensions import DecodingContext, DecodingExtension, DecodingParts
from sage_core.generation.sequence import TokenSequence
from sage_core.trees.policy import TreePlanner
from sage_core.trees.steps import Proposal, Shape
from sage_core.trees.tree import ROOT, TokenTree


@dataclass(frozen=True)
class Repeat(DecodingExtension):
    """Draft what stood ``period`` tokens before."""

    period: int = 12

    name: ClassVar[str] = "repeat"
    drafts: ClassVar[bool] = True

    @classmethod
    def parse(cls, value: Any) -> Self:
        return cls(int(value))

    @property
    def more_nodes(self) -> int:
        return self.period

    def wrap(self, parts: DecodingParts, context: DecodingContext) -> DecodingParts:
        return replace(parts, drafter=_Drafter(self.period))


class _Drafter(PasslessDrafter):
    def __init__(self, period: int) -> None:
        self._period = period

    def draft(self, planner: TreePlanner, sequence: TokenSequence) -> Proposal:
        tokens: list[int] = sequence.ids[0, -self._period :].tolist()
        tokens = tokens[: max(0, sequence.remaining - 1)]
        count = len(tokens)
        parents = (ROOT, *range(count - 1))[:count]
        tree = TokenTree(tuple(tokens), parents, (1.0,) * count, (0,) * count)
        return Proposal(tree, Shape(depth=count, width=1))

"""Lossy acceptance (experimental): the text may differ from the target's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from sage_core.engine.extensions.base import DecodingContext, DecodingExtension, DecodingParts
from sage_core.generation.lossy import Lossy, as_lossy, check_lossy
from sage_core.trees.policy import Policy


@dataclass(frozen=True)
class LossyAcceptance(DecodingExtension):
    """A rule of `generation.lossy` instead of exact acceptance."""

    rule: Lossy

    name: ClassVar[str] = "lossy"
    lossless: ClassVar[bool] = False

    @classmethod
    def parse(cls, value: Any) -> Self:
        return cls(as_lossy(value))

    def __str__(self) -> str:
        return str(self.rule)

    def check(self, policy: Policy, candidates: str, *, draft: bool) -> None:
        check_lossy(self.rule, policy, candidates)

    def wrap(self, parts: DecodingParts, context: DecodingContext) -> DecodingParts:
        from sage_core.generation.lossy_acceptance import with_lossy_acceptance

        return replace(parts, strategy=with_lossy_acceptance(parts.strategy, self.rule))

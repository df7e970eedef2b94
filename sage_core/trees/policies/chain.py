"""A single path of the draft's likeliest tokens: standard speculative decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sage_core.trees.policies.static import StaticPlanner
from sage_core.trees.policy import Policy, TreePlanner


@dataclass(frozen=True)
class Chain(Policy):
    """A chain of the draft's ``length`` likeliest tokens (Leviathan et al., arXiv 2211.17192)."""

    length: int = 5

    name: ClassVar[str] = "chain"

    def __post_init__(self) -> None:
        self._at_least(1, "length")

    def planner(self) -> TreePlanner:
        return StaticPlanner(tuple((0,) * n for n in range(1, self.length + 1)))

    @property
    def max_nodes(self) -> int:
        return self.length

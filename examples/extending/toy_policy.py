"""A tree policy in one file: a chain that ends where the draft is unsure.

As a module of `sage_core/trees/policies/` it is found by its name: ``--policy confident-chain``.
From anywhere else it is passed as an object: ``SpeculativeDecoder(..., policy=ConfidentChain())``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sage_core.trees.policy import Growth, Level, Policy, TreePlanner
from sage_core.trees.steps import Shape


@dataclass(frozen=True)
class ConfidentChain(Policy):
    """The likeliest token of each level, while its probability is at least ``least``."""

    name: ClassVar[str] = "confident-chain"
    length: int = 8
    least: float = 0.5

    def __post_init__(self) -> None:
        self._at_least(1, "length")

    @property
    def max_nodes(self) -> int:
        return self.length

    def planner(self) -> TreePlanner:
        return _Planner(self)


class _Planner(TreePlanner):
    def __init__(self, options: ConfidentChain) -> None:
        self._options = options

    def plan(self) -> Shape:
        return Shape(depth=self._options.length, width=1)

    def grow(self, level: Level) -> Growth:
        if level.probs[0, 0] < self._options.least:
            return Growth.none()
        first = np.zeros(1, dtype=np.int64)  # rank 0 below the only node of the frontier
        return Growth(parents=first, ranks=first, expand=np.ones(1, dtype=bool))

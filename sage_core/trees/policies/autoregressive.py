"""No draft: one token per step, the baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sage_core.trees.policy import Growth, Level, Policy, TreePlanner
from sage_core.trees.steps import Shape


@dataclass(frozen=True)
class Autoregressive(Policy):
    """Decode without a draft, one token per target pass."""

    name: ClassVar[str] = "autoregressive"
    drafts: ClassVar[bool] = False

    def planner(self) -> TreePlanner:
        return _EmptyPlanner()

    @property
    def max_nodes(self) -> int:
        return 0


class _EmptyPlanner(TreePlanner):
    def plan(self) -> Shape:
        return Shape()

    def grow(self, level: Level) -> Growth:
        return Growth.none()

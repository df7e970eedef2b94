"""An option that changes drafting in one file: no drafts right after a tree was rejected.

As a module of `sage_core/engine/extensions/` it is found by its name, and one line in
`sage_core/options.py` (``pause: int | None = None``) makes it an option of `Pipeline`. From
elsewhere it is passed as an object: ``SpeculativeDecoder(..., extensions=[Pause(2)])``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from sage_core.engine.extensions import DecodingContext, DecodingExtension, DecodingParts
from sage_core.errors import OptionError
from sage_core.trees.policy import PlannerWrapper, TreePlanner
from sage_core.trees.steps import Shape
from sage_core.trees.tree import TokenTree


@dataclass(frozen=True)
class Pause(DecodingExtension):
    """Draft nothing for ``steps`` steps after a tree of which no node was accepted."""

    steps: int

    name: ClassVar[str] = "pause"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise OptionError(f"pause must be at least 1 step: {self.steps}")

    @classmethod
    def parse(cls, value: Any) -> Self:
        return cls(int(value))

    def wrap(self, parts: DecodingParts, context: DecodingContext) -> DecodingParts:
        return replace(parts, planner=_Pausing(parts.planner, self.steps))


class _Pausing(PlannerWrapper):
    def __init__(self, planner: TreePlanner, steps: int) -> None:
        super().__init__(planner)
        self._steps = steps
        self._left = 0

    def plan(self) -> Shape:
        if self._left:
            return Shape(note="pause")
        return super().plan()

    def observe(self, tree: TokenTree, nodes: Sequence[int], tokens: Sequence[int]) -> None:
        if self._left:  # the policy did not plan this step
            self._left -= 1
            return
        super().observe(tree, nodes, tokens)
        self._left = self._steps if len(tree) and not nodes else 0

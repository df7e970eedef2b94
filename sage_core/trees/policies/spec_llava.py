"""Spec-LLaVA: branches grow while their cumulative draft probability is high."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sage_core.trees.policy import Growth, Level, Policy, TreePlanner, likeliest
from sage_core.trees.steps import Shape


@dataclass(frozen=True)
class SpecLlava(Policy):
    """Spec-LLaVA's dynamic tree (Huo et al., arXiv 2509.11961).

    A node gets its ``k`` likeliest children while its cumulative draft probability is at least
    ``grow``; nodes below ``prune`` are cut; at most ``depth`` levels are drafted and at most
    ``nodes`` nodes verified (127 in the paper; the other defaults are ours).
    """

    grow: float = 0.1
    prune: float = 0.03
    k: int = 4
    depth: int = 8
    nodes: int = 127

    name: ClassVar[str] = "spec-llava"

    def __post_init__(self) -> None:
        self._require((0 < self.prune <= self.grow <= 1, "needs 0 < prune <= grow <= 1"))
        self._at_least(1, "k", "depth", "nodes")

    def planner(self) -> TreePlanner:
        return SpecLlavaPlanner(self)

    @property
    def max_nodes(self) -> int:
        return self.nodes


class SpecLlavaPlanner(TreePlanner):
    """Stateless between steps: the draft's probabilities alone shape a tree."""

    def __init__(self, options: SpecLlava) -> None:
        self._o = options
        self.branching = options.k

    def plan(self) -> Shape:
        return Shape(depth=self._o.depth, width=float(self._o.k))

    def grow(self, level: Level) -> Growth:
        o = self._o
        cumulative = (level.cumulative[:, None] * level.probs[:, : o.k]).ravel()
        kept = np.nonzero(cumulative >= o.prune)[0]
        room = o.nodes - level.nodes
        if len(kept) > room:
            # At the node limit the likeliest nodes of the level are kept, in their order.
            kept = np.sort(kept[likeliest(cumulative[kept], room)])
        parents, ranks = np.divmod(kept, min(o.k, level.probs.shape[1]))
        more = level.depth < o.depth and level.nodes + len(kept) < o.nodes
        return Growth(parents, ranks, (cumulative[kept] >= o.grow) & more)

"""EAGLE-2: expand the likeliest nodes of each level, verify the likeliest of all."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from sage_core.trees.policy import Growth, Level, Policy, TreePlanner, likeliest
from sage_core.trees.steps import Shape
from sage_core.trees.tree import TokenTree


@dataclass(frozen=True)
class Eagle2(Policy):
    """EAGLE-2's dynamic tree (Li et al., arXiv 2406.16858) with the settings of SpecVLM (Huang et
    al., arXiv 2509.11815).

    ``depth`` levels are drafted; the ``beam`` nodes of each level with the greatest cumulative
    probability get their ``k`` likeliest children; the ``nodes`` nodes of the whole tree with the
    greatest cumulative probability are verified.
    """

    depth: int = 7
    beam: int = 10
    k: int = 10
    nodes: int = 60

    name: ClassVar[str] = "eagle2"

    def __post_init__(self) -> None:
        self._at_least(1, *(field.name for field in fields(self)))

    def planner(self) -> TreePlanner:
        return Eagle2Planner(self)

    @property
    def max_nodes(self) -> int:
        return self.nodes


class Eagle2Planner(TreePlanner):
    """Drafts only nodes that the final ranking can keep; `prune` is that ranking.

    Cumulative probabilities never rise along a path. A candidate outside the ``nodes`` best so far
    cannot be among the best of all, nor can its descendants, so it is dropped at once. The verified
    tree is the published one, and drafting ends where no deeper node could be kept.
    """

    def __init__(self, options: Eagle2) -> None:
        self._o = options
        self.branching = options.k
        self._scores = np.zeros(0)
        """Cumulative probability of every node so far, (nodes,), in node order."""

    def plan(self) -> Shape:
        self._scores = np.zeros(0)
        return Shape(depth=self._o.depth, width=float(self._o.k))

    def grow(self, level: Level) -> Growth:
        o, known = self._o, len(self._scores)
        above = self._scores[level.frontier] if known else np.ones(1)
        # A rounded softmax may exceed 1 in the last bit; no child may outrank its parent.
        probs = np.minimum(level.probs[:, : o.k].astype(np.float64), 1.0)
        cumulative = (above[:, None] * probs).ravel()
        best = likeliest(np.concatenate([self._scores, cumulative]), o.nodes)
        found = np.sort(best[best >= known]) - known
        found = found[cumulative[found] > 0]
        self._scores = np.concatenate([self._scores, cumulative[found]])
        parents, ranks = np.divmod(found, probs.shape[1])
        expand = np.zeros(len(found), dtype=bool)
        if level.depth < o.depth:
            expand[likeliest(cumulative[found], o.beam)] = True
        return Growth(parents, ranks, expand)

    def prune(self, tree: TokenTree) -> TokenTree:
        if len(tree) <= self._o.nodes:
            return tree
        return tree.subset(likeliest(self._scores, self._o.nodes).tolist())

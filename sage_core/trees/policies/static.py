"""Fixed trees: the same shape in every step, independent of the draft's confidence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from sage_core.errors import OptionError
from sage_core.files.reading import parse_json, read_text
from sage_core.trees.policy import Growth, Level, Policy, TreePlanner
from sage_core.trees.steps import Shape
from sage_core.trees.tree import ROOT

RankPath = tuple[int, ...]
"""A node as the ranks of the nodes on its path from the root."""

SPECVLM_25 = (
    "0 1 2 3 00 01 02 10 11 20 21 30 000 001 002 010 011 020 021 100 0000 0001 0002 00000 00001"
)
"""The 25-node, depth-5 tree of SpecVLM (Ji et al., arXiv 2508.16201): children by rank."""

MAX_NODES = 4096
"""Of a tree in a file."""
MAX_RANK = 4095
"""Of a node in a file: so many candidates are ranked in each step."""


def tree_from_text(text: str) -> tuple[RankPath, ...]:
    """Rank paths from words such as ``0 1 00 01``; ranks above 9 are written ``0.12.3``.

    Raises:
        OptionError: a word that is no path, or see `checked_tree`.
    """
    paths = []
    for word in text.split():
        parts = word.split(".") if "." in word else list(word)
        if not all(part.isdecimal() for part in parts):
            raise OptionError(f"{word!r} is no path of ranks: write 0 1 00 01 or 0.12.3")
        paths.append(tuple(int(part) for part in parts))
    return checked_tree(paths)


def checked_tree(paths: list[RankPath]) -> tuple[RankPath, ...]:
    """The paths in level order.

    Raises:
        OptionError: no paths, a path named twice, or one without its parent.
    """
    known = set(paths)
    if not known:
        raise OptionError("a static tree needs at least one path")
    if len(known) != len(paths):
        raise OptionError("a static tree names a path twice")
    if len(known) > MAX_NODES:
        raise OptionError(f"a static tree has at most {MAX_NODES} nodes, not {len(known)}")
    for path in known:
        if max(path, default=0) > MAX_RANK:
            raise OptionError(f"static tree: ranks are at most {MAX_RANK}, not {max(path)}")
        if not path or min(path) < 0:
            raise OptionError(f"static tree: {list(path)} is no path of ranks 0, 1, 2, ...")
        if len(path) > 1 and path[:-1] not in known:
            raise OptionError(f"static tree: path {path} has no parent in the tree")
    return tuple(sorted(known, key=lambda path: (len(path), path)))


@dataclass(frozen=True)
class Static(Policy):
    """A fixed tree: SpecVLM's 25 nodes (arXiv 2508.16201), or any tree from a file.

    ``tree`` names a text file of rank paths (``0 1 00 01``) or a JSON list of lists. ``nodes``
    keeps only the first nodes in level order (0: all).
    """

    tree: str = ""
    nodes: int = 0

    name: ClassVar[str] = "static"

    def __post_init__(self) -> None:
        self._at_least(0, "nodes")
        available = len(self._whole)
        advice = f"give tree=FILE, or take optimal-static:nodes={self.nodes}"
        message = f"the tree has {available} nodes, not {self.nodes}: {advice}"
        self._require((self.nodes <= available, message))

    @cached_property
    def paths(self) -> tuple[RankPath, ...]:
        """The tree's nodes as rank paths from the root, in level order."""
        return self._whole[: self.nodes] if self.nodes else self._whole

    @cached_property
    def _whole(self) -> tuple[RankPath, ...]:
        return _read_tree(self.tree) if self.tree else tree_from_text(SPECVLM_25)

    def planner(self) -> TreePlanner:
        return StaticPlanner(self.paths)

    @property
    def max_nodes(self) -> int:
        return len(self.paths)


def _read_tree(file: str) -> tuple[RankPath, ...]:
    text = read_text(file, error=OptionError)
    if not text.lstrip().startswith("["):
        return tree_from_text(text)
    return checked_tree(parse_json(text, file, list[RankPath], error=OptionError))


class StaticPlanner(TreePlanner):
    """Gives each node the children that a fixed list of rank paths names."""

    def __init__(self, paths: tuple[RankPath, ...]) -> None:
        self._depth = max(len(path) for path in paths)
        self.branching = 1 + max(path[-1] for path in paths)
        self._children: dict[RankPath, list[int]] = {}
        for path in paths:
            self._children.setdefault(path[:-1], []).append(path[-1])
        self._placed: list[RankPath] = []

    def plan(self) -> Shape:
        self._placed = []
        return Shape(depth=self._depth, width=float(len(self._children[()])))

    def grow(self, level: Level) -> Growth:
        parents: list[int] = []
        ranks: list[int] = []
        expand: list[bool] = []
        for index, parent in enumerate(level.frontier):
            above = () if parent == ROOT else self._placed[parent]
            for rank in self._children.get(above, ()):
                if rank < level.probs.shape[1] and level.probs[index, rank] > 0:
                    path = (*above, rank)
                    self._placed.append(path)
                    parents.append(index)
                    ranks.append(rank)
                    expand.append(path in self._children)
        return Growth(
            np.array(parents, np.int64), np.array(ranks, np.int64), np.array(expand, bool)
        )

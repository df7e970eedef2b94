"""The drafted tokens of one step as a tree: tokens, parents, draft probabilities, ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

ROOT = -1
"""Parent index of level 1. The root is the last committed token and not a node."""


@dataclass(frozen=True)
class TokenTree:
    """A tree of drafted tokens in topological order (parents before children).

    ``parents[i] == ROOT`` marks children of the root, which is not stored. ``probs[i]`` is the
    draft's probability of the token given its parent's path, ``ranks[i]`` its rank among the
    draft's candidates there (0 = likeliest).

    Raises:
        ValueError: lengths differ, a parent does not precede its child, or two siblings carry the
            same token (which would break the sampling rules).
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    probs: tuple[float, ...] = ()
    ranks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.tokens)
        if not len(self.parents) == len(self.probs) == len(self.ranks) == n:
            raise ValueError("a tree needs as many parents, probabilities and ranks as tokens")
        for node, parent in enumerate(self.parents):
            if not ROOT <= parent < node:
                raise ValueError(f"node {node} has parent {parent}, which does not precede it")
        if len(set(zip(self.parents, self.tokens, strict=True))) != n:
            raise ValueError("two siblings carry the same token")

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Level of every node; the root's children are at level 1."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        return tuple(depths)

    @property
    def depth(self) -> int:
        """Number of levels below the root; 0 for an empty tree."""
        return max(self.depths, default=0)

    @cached_property
    def cumulative(self) -> tuple[float, ...]:
        """Product of the draft's probabilities along each node's path."""
        values: list[float] = []
        for parent, prob in zip(self.parents, self.probs, strict=True):
            values.append(prob if parent == ROOT else values[parent] * prob)
        return tuple(values)

    @cached_property
    def _children(self) -> dict[int, dict[int, int]]:
        table: dict[int, dict[int, int]] = {}
        for node, (parent, token) in enumerate(zip(self.parents, self.tokens, strict=True)):
            table.setdefault(parent, {})[token] = node
        return table

    def child(self, parent: int, token: int) -> int | None:
        """The child of ``parent`` (or of ``ROOT``) that carries ``token``, if there is one."""
        return self._children.get(parent, {}).get(token)

    def children(self, parent: int) -> tuple[int, ...]:
        """Nodes whose parent is ``parent`` (or ``ROOT``), in node order."""
        return tuple(self._children.get(parent, {}).values())

    def path(self, node: int) -> tuple[int, ...]:
        """Nodes from level 1 down to ``node``, both included; empty for ``ROOT``."""
        path: list[int] = []
        while node != ROOT:
            path.append(node)
            node = self.parents[node]
        return tuple(reversed(path))

    def leaves(self) -> tuple[int, ...]:
        """Nodes without children, in node order."""
        return tuple(node for node in range(len(self)) if node not in self._children)

    @cached_property
    def visibility(self) -> np.ndarray:
        """The tree attention mask of a verification pass: bool (nodes + 1, nodes + 1).

        Index 0 is the root, index ``i + 1`` is node ``i``. Each attends to the root, its ancestors
        and itself.
        """
        n = len(self) + 1
        seen = np.zeros((n, n), dtype=bool)
        seen[0, 0] = True
        for node, parent in enumerate(self.parents):
            seen[node + 1] = seen[parent + 1]
            seen[node + 1, node + 1] = True
        return seen

    def subset(self, nodes: Iterable[int]) -> TokenTree:
        """The tree of ``nodes`` only, renumbered in their order.

        Raises:
            ValueError: a kept node's parent is not kept.
        """
        kept = sorted(set(nodes))
        new = {old: i for i, old in enumerate(kept)} | {ROOT: ROOT}
        missing = [node for node in kept if self.parents[node] not in new]
        if missing:
            raise ValueError(f"node {missing[0]} would lose its parent")
        return TokenTree(
            tokens=tuple(self.tokens[i] for i in kept),
            parents=tuple(new[self.parents[i]] for i in kept),
            probs=tuple(self.probs[i] for i in kept),
            ranks=tuple(self.ranks[i] for i in kept),
        )


@dataclass
class TreeBuilder:
    """A tree under construction, level by level. `freeze` returns the checked, immutable tree."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    probs: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    cumulative: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(
        self,
        parents: Sequence[int],
        tokens: Sequence[int],
        probs: Sequence[float],
        ranks: Sequence[int],
    ) -> range:
        """Append the nodes of one level; returns their indices."""
        first = len(self.tokens)
        self.tokens.extend(tokens)
        self.parents.extend(parents)
        self.probs.extend(probs)
        self.ranks.extend(ranks)
        for parent, prob in zip(parents, probs, strict=True):
            above = 1.0 if parent == ROOT else self.cumulative[parent]
            self.cumulative.append(above * prob)
        return range(first, len(self.tokens))

    def freeze(self) -> TokenTree:
        return TokenTree(
            tuple(self.tokens), tuple(self.parents), tuple(self.probs), tuple(self.ranks)
        )

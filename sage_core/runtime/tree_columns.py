"""The columns of a tree by their parents, for layers that compute each node from its parent's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sage_core.errors import UnsupportedError

KEPT = 8
"""Most nodes of a pass whose states are kept for the next one."""


class TreeColumns:
    """The tree columns of a pass by their parents; -1: the committed text.

    Args:
        before: of the previous pass since the last commit; None for the first.
        visible: bool (n, columns): the ancestors of each of the last n columns, and itself.

    Raises:
        UnsupportedError: a column's ancestors are no path.
    """

    def __init__(self, before: TreeColumns | None, visible: np.ndarray) -> None:
        n, columns = visible.shape
        self.new = n
        self.paths: list[list[int]] = [] if before is None else before.paths[: columns - n]
        """The ancestors of each column and itself, from the root on."""
        for column in _parents_first(visible):
            seen = np.flatnonzero(visible[column - columns + n]).tolist()
            above = [one for one in seen if one != column]
            parent = max(above, key=lambda one: len(self._path(one)), default=-1)
            path = [*self._path(parent), column]
            if set(path) != set(seen):
                raise UnsupportedError("a pass over a tree whose nodes have several parents")
            self._set(column, path)
        self._windows: dict[tuple[int, torch.device], Tensor] = {}
        kept = [] if before is None else [one for one in before.kept if one < columns - n]
        self.levels = self._levels(kept)

    def _path(self, column: int) -> list[int]:
        return self.paths[column] if column >= 0 else []

    def _set(self, column: int, path: list[int]) -> None:
        self.paths += [[] for _ in range(column + 1 - len(self.paths))]
        self.paths[column] = path

    @property
    def old(self) -> int:
        return len(self.paths) - self.new

    def _levels(self, kept: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """The new columns, and those before them whose states are not ``kept``, level by level.

        With each level the rows of the parents' states in the level before; for the first one in
        the committed text's and the kept ones.
        """
        rows: dict[int, tuple[int, int]] = {}
        for path in self.paths[self.old :]:
            known = [i for i, column in enumerate(path[:-1]) if column in kept]
            start = known[-1] + 1 if known else 0
            row = kept.index(path[start - 1]) + 1 if known else 0
            for level, column in enumerate(path[start:]):
                rows[column] = level, row
        depth = 1 + max(level for level, _ in rows.values())
        by_level = [[c for c in sorted(rows) if rows[c][0] == level] for level in range(depth)]
        levels = [(by_level[0], [rows[column][1] for column in by_level[0]])]
        for above, below in pairwise(by_level):
            levels.append((below, [above.index(self.paths[column][-2]) for column in below]))
        return levels

    @property
    def is_chain(self) -> bool:
        return all(len(columns) == 1 for columns, _ in self.levels)

    @property
    def kept(self) -> list[int]:
        """The columns whose states a layer keeps after the pass."""
        if self.is_chain:
            return self.levels[-1][0]
        return list(range(self.old, len(self.paths))) if self.new <= KEPT else []

    def windows(self, size: int, device: torch.device) -> Tensor:
        """(n, size) what is before each new column: 0 to size - 1 of the committed text, then
        columns."""
        if (size, device) not in self._windows:
            rows = []
            for path in self.paths[self.old :]:
                before = [*range(size), *(size + column for column in path[:-1])]
                rows.append(before[len(before) - size :])
            self._windows[size, device] = torch.tensor(rows, device=device)
        return self._windows[size, device]


def _parents_first(visible: np.ndarray) -> list[int]:
    n, columns = visible.shape
    order = np.argsort(visible.sum(axis=1), kind="stable")
    return [columns - n + int(row) for row in order]

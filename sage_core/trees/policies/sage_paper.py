"""SAGE as published (arXiv 2602.00523): depth and width from the entropy of the draft."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import numpy as np

from sage_core.trees.policies.static import SPECVLM_25, StaticPlanner, tree_from_text
from sage_core.trees.policy import Growth, Level, Policy, TreePlanner, likeliest
from sage_core.trees.steps import Shape


def confidence(probs: np.ndarray) -> float:
    """α in [0, 1] from the draft's k largest probabilities, float (k,) (Eq. 7-9).

    P̃: renormalised probabilities (Eq. 7); H = -Σ P̃ log P̃ (Eq. 8); α = 1 - H / log k (Eq. 9). It
    satisfies p₁ ≥ exp(-H) = k^(α-1), not the bound of the paper's Lemma 4.3.
    """
    k = len(probs)
    if k < 2:
        return 1.0
    p = probs / probs.sum()
    p = p[p > 0]
    entropy = float(-(p * np.log(p)).sum())
    return min(1.0, max(0.0, 1.0 - entropy / float(np.log(k))))


@dataclass(frozen=True)
class SagePaper(Policy):
    """SAGE as published (arXiv 2602.00523, Eq. 7-12), every number an option.

    ``dmin``/``dmax`` and ``wmin``/``wmax``: ranges of depth and width; ``k``: probabilities that
    α is computed from; ``nmax``: node limit; ``theta``: slope of the path threshold θ_l;
    ``history``: number of accepted lengths averaged (0: no history): below ``low`` the depth limit
    falls by one, above ``high`` it rises by one, up to ``dmax + raise_by``; ``lookahead``: use α of
    the previous step (as published) instead of this step's own; ``scale_width``: Eq. 12 on or off;
    ``parent``: P_parent is the parent's ``own`` or ``cumulative`` probability.
    """

    dmin: int = 3
    dmax: int = 8
    wmin: float = 2.0
    wmax: float = 10.0
    k: int = 10
    nmax: int = 64
    theta: float = 0.1
    history: int = 10
    low: float = 2.0
    high: float = 3.0
    raise_by: int = 2
    lookahead: bool = True
    scale_width: bool = True
    parent: str = "own"

    name: ClassVar[str] = "sage-paper"

    def __post_init__(self) -> None:
        numbers = {name: x for name, x in vars(self).items() if isinstance(x, float)}
        self._require(
            *((isfinite(x), f"{name} must be a finite number") for name, x in numbers.items()),
            (1 <= self.dmin <= self.dmax, "needs 1 <= dmin <= dmax"),
            (0 < self.wmin <= self.wmax, "needs 0 < wmin <= wmax"),
            (self.theta >= 0, "theta must not be negative"),
            (self.history >= 0, "history must not be negative"),
            (self.low <= self.high, "needs low <= high"),
            (self.raise_by >= 0, "raise_by must not be negative"),
            (self.parent in ("own", "cumulative"), "parent is own or cumulative"),
        )
        self._at_least(2, "k")
        self._at_least(1, "nmax")

    def planner(self) -> TreePlanner:
        return SagePaperPlanner(self)

    @property
    def max_nodes(self) -> int:
        return max(self.nmax, len(SPECVLM_25.split()))


class SagePaperPlanner(TreePlanner):
    """State of one text: α of the last root, recent accepted lengths, the depth limit."""

    def __init__(self, options: SagePaper) -> None:
        self._o = options
        # The static first tree needs ranks 0 to 3, α needs k, the widest level wmax.
        self.branching = max(options.k, int(np.ceil(options.wmax)), 4)
        self._alpha = 0.5
        self._dmax = options.dmax
        self._lengths: deque[int] = deque(maxlen=max(1, options.history))
        # Before any α is known the tree is the static one, within the node limit.
        paths = tree_from_text(SPECVLM_25)[: options.nmax]
        self._first: StaticPlanner | None = StaticPlanner(paths)
        self._next_alpha = self._alpha
        self._depth = 0.0
        self._width = 0.0

    def plan(self) -> Shape:
        self._set_limits(self._alpha)
        if self._first is not None:
            first = self._first.plan()
            return Shape(first.depth, first.width, self._alpha, "first tree: static")
        if not self._o.lookahead:
            # The depth is known only after the root's distribution: allow the maximum.
            return Shape(self._dmax, self._o.wmax, None, "α of this step's own root")
        moved = self._dmax - self._o.dmax
        note = f"history moved the depth limit by {moved:+d}" if moved else ""
        return Shape(int(self._depth), self._width, self._alpha, note)

    def _set_limits(self, alpha: float) -> None:
        o = self._o
        self._depth = o.dmin + alpha * (self._dmax - o.dmin)  # Eq. 10
        self._width = o.wmin + (1.0 - alpha) * (o.wmax - o.wmin)  # Eq. 11

    def grow(self, level: Level) -> Growth:
        if level.depth == 1:
            # The root's distribution exists whatever the shape of the tree.
            self._next_alpha = confidence(level.probs[0, : self._o.k].astype(np.float64))
            if not self._o.lookahead:
                self._set_limits(self._next_alpha)
        if self._first is not None:
            return self._first.grow(level)
        return self._grow_adaptive(level)

    def _grow_adaptive(self, level: Level) -> Growth:
        o, depth = self._o, level.depth
        if depth > self._depth:
            return Growth.none()
        width = np.full(len(level.frontier), self._width)
        if depth > 1 and o.scale_width:
            p_parent = level.parent_probs if o.parent == "own" else level.cumulative
            width = self._width / depth * (0.5 + p_parent)  # Eq. 12
        ranks = np.arange(level.probs.shape[1])
        cumulative = level.cumulative[:, None] * level.probs
        threshold = o.theta * depth / self._depth  # θ_l
        kept = (ranks[None, :] < width[:, None]) & (cumulative > threshold)
        parents, chosen = np.nonzero(kept)
        room = o.nmax - level.nodes
        if len(parents) > room:
            # At the node limit the likeliest nodes of the level are kept, in their order.
            best = np.sort(likeliest(cumulative[parents, chosen], room))
            parents, chosen = parents[best], chosen[best]
        full = level.nodes + len(parents) >= o.nmax or depth + 1 > self._depth
        return Growth(parents, chosen, np.full(len(parents), not full))

    def observe(self, tree: object, nodes: Sequence[int], tokens: Sequence[int]) -> None:
        self._first = None
        self._alpha = self._next_alpha
        if not self._o.history:
            return
        self._lengths.append(len(nodes))
        if len(self._lengths) < self._o.history:
            return
        mean = sum(self._lengths) / len(self._lengths)
        if mean < self._o.low:
            self._dmax = max(self._o.dmin, self._dmax - 1)
        elif mean > self._o.high:
            self._dmax = min(self._o.dmax + self._o.raise_by, self._dmax + 1)

"""The default policy: trees that are worth their time, on this machine, with this pair.

A step commits 1 + Σ a tokens in expectation, a being the chance that a node is accepted, and takes
c_t(nodes) + c_d · passes. The tree of most tokens per second is found by iteration (Dinkelbach):
with λ the rate achieved so far, a node or a pass is worth it when the tokens that it brings exceed
λ times its seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sage_core.costs import Costs
from sage_core.policies.acceptance import (
    SERVED,
    Predictor,
    candidate_features,
    entropies,
    fitted,
    node_features,
)
from sage_core.policies.base import Growth, Level, Policy, Shaper
from sage_core.steps import Shape
from sage_core.tree import ROOT, TokenTree

UNKNOWN = Costs.linear(1.0, 0.01, 0.1)
"""What passes are taken to cost where nobody has measured: only the ratios matter."""


@dataclass(frozen=True)
class Sage(Policy):
    """Grow and prune by expected tokens per second, from measured costs and predicted acceptance.

    ``dmax``: greatest depth; ``nmax``: greatest number of nodes; ``beam``: nodes of a level that
    are expanded at most; ``k``: candidates seen of each; ``probe``: greatest number of steps
    between two looks at a draft that does not pay (more where a draft pass costs as much as half a
    target pass).
    """

    dmax: int = 12
    nmax: int = 64
    beam: int = 12
    k: int = 10
    probe: int = 32

    name: ClassVar[str] = "sage"

    def __post_init__(self) -> None:
        self._at_least(1, "dmax", "nmax", "beam", "probe")
        self._at_least(2, "k")

    def shaper(self) -> Shaper:
        return SageShaper(self)

    @property
    def max_nodes(self) -> int:
        return self.nmax


@dataclass(frozen=True)
class _Grown:
    """What was thought of one drafted level, kept to learn from.

    ``first``: index of the level's first node in the drafted tree; ``logits`` (rows, k) of all
    candidates; ``parents``: tree nodes of the rows; ``served``: (rows,) logits of the rows'
    candidates holding the accepted token, from before they were drafted.
    """

    first: int
    logits: np.ndarray
    parents: np.ndarray
    served: np.ndarray


class SageShaper(Shaper):
    """The state that shapes one text's trees: the rate achieved, what was accepted of late."""

    counts_costs = True

    def __init__(self, options: Sage) -> None:
        self._o = options
        self.branching = options.k
        candidate, node = fitted()
        self._candidate, self._node = Predictor(candidate), Predictor(node)
        self._alpha, self._recent, self._lately = 0.7, 0.9, 0.9
        self._carry = np.full(options.dmax + 1, 0.85)  # a level holds where the one above did
        self._wait = self._pause = 0
        self.calibrate(UNKNOWN)
        self._start(Shape())

    def calibrate(self, costs: Costs) -> None:
        self._verify = costs.verify(np.arange(1, self._o.nmax + 2)) + costs.step
        self._propose = costs.propose(np.arange(1, self._o.beam + 1))
        # Each node's share of the rise from a pass over the root alone to one over a full tree.
        self._per_node = float(self._verify[-1] - self._verify[0]) / self._o.nmax
        # A look costs a pass: the dearer it is the rarer, so that all of them stay a small part.
        passes = float(self._propose[0]) / float(self._verify[0])
        self._rarest = max(self._o.probe, int(np.ceil(64 * passes)))
        # No text is slower than without a draft. λ starts from somewhat more, as if from 12 passes.
        self._least = 1.0 / float(self._verify[0])
        self._seconds = 12.0 / self._least
        self._tokens = 1.5 * 12.0

    @property
    def _rate(self) -> float:
        """λ, tokens per second."""
        return max(self._least, self._tokens / self._seconds)

    def _start(self, shape: Shape) -> None:
        self._shape = shape
        self._levels: list[_Grown] = []
        self._accepted = np.zeros(0)  # predicted, of the drafted nodes
        self._ranks = np.zeros(0, dtype=np.int64)
        self._spent = 0.0
        self._drafted = TokenTree()
        self._root = self._alpha
        self._root_served: np.ndarray | None = None

    def plan(self) -> Shape:
        """Foretell the depth from α of the last root and from what was accepted of late.

        Drafting may go deeper, and stops by what each level shows: a limit from the forecast cost
        more than it saved. Where not even the forecast's best depth pays, nothing is drafted.
        """
        rate = self._rate
        features = node_features(
            0,
            _one(1.0),
            _one(self._alpha),
            _one(1.0),
            _one(0),
            self._alpha,
            self._recent,
            self._lately,
        )
        logits = self._node.logits(features)
        depth, gain = self._depth(rate, float(self._node.probabilities(logits)[0]))
        note = f"λ {rate * float(self._verify[0]):.2f} tokens per target pass, depth {depth} likely"
        if gain <= 0 and self._wait < self._pause:
            self._wait += 1
            depth, note = 0, f"drafting does not pay: next look in {self._pause - self._wait + 1}"
        elif gain <= 0:
            self._pause = min(self._rarest, 2 * self._pause + 1)
            self._wait = 0
            depth, note = 1, f"a look whether drafting pays; {note}"
        else:
            self._pause = self._wait = 0
            depth = self._o.dmax
        self._start(Shape(depth, float(self._o.beam), self._alpha, note))
        self._root_served = logits
        return self._shape

    def _depth(self, rate: float, served: float) -> tuple[int, float]:
        """The levels that will likely be drafted, and what they bring beyond their cost."""
        holds = served * np.cumprod(np.concatenate([[1.0], self._carry[1 : self._o.dmax]]))
        step = self._propose[0] + 2 * self._per_node
        gains = np.cumsum(holds - rate * step)
        best = int(gains.argmax())
        return best + 1, float(gains[best])

    def grow(self, level: Level) -> Growth:
        rows, k = level.probs.shape
        probs = level.probs.astype(np.float64)
        alphas = entropies(probs)
        if level.depth == 1:
            self._root = self._alpha = float(alphas[0])
            above, ranks, served = _one(1.0), _one(0), self._root_served
        else:
            above, ranks = self._accepted[level.parents], self._ranks[level.parents]
            served = self._expanded[level.parents - self._levels[-1].first]
        features = candidate_features(
            level.depth, probs, alphas, above, ranks, self._root, self._recent
        )
        logits = self._candidate.logits(features)
        chances = self._candidate.probabilities(logits).reshape(rows, k)
        chances[probs <= 0] = 0.0
        # Children of one parent exclude each other.
        chances /= np.maximum(1.0, chances.sum(axis=1, keepdims=True))
        accepted = above[:, None] * chances
        self._spent += float(self._propose[min(rows, len(self._propose)) - 1])
        worth = accepted > 0.25 * self._rate * self._per_node
        chosen, picked = np.nonzero(worth)
        limit = 2 * self._o.nmax
        if len(chosen) > limit:
            best = np.sort(np.argsort(-accepted[chosen, picked], kind="stable")[:limit])
            chosen, picked = chosen[best], picked[best]
        assert served is not None
        self._levels.append(_Grown(level.nodes, logits.reshape(rows, k), level.parents, served))
        values = accepted[chosen, picked]
        self._accepted = np.concatenate([self._accepted, values])
        self._ranks = np.concatenate([self._ranks, picked])
        expand = self._expansion(level.depth, probs[chosen, picked], alphas[chosen], values, picked)
        return Growth(chosen, picked, expand)

    def _expansion(
        self,
        depth: int,
        probs: np.ndarray,
        alphas: np.ndarray,
        values: np.ndarray,
        ranks: np.ndarray,
    ) -> np.ndarray:
        """Which nodes of a level get children: those that bring more than they cost, if any do."""
        expand = np.zeros(len(values), dtype=bool)
        if depth >= self._shape.depth or not len(values):
            return expand
        features = node_features(
            depth, probs, alphas, values, ranks, self._root, self._recent, self._lately
        )
        logits = self._node.logits(features)
        gains = values * self._node.probabilities(logits) - self._rate * self._per_node
        order = np.argsort(-gains, kind="stable")[: self._o.beam]
        order = order[gains[order] > 0]
        totals = np.cumsum(gains[order]) - self._rate * self._propose[: len(order)]
        if not len(order) or totals.max() <= 0:
            return expand
        expand[order[: int(totals.argmax()) + 1]] = True
        self._expanded = logits  # of the whole level: the drafter does not go on behind an end
        return expand

    def prune(self, tree: TokenTree) -> TokenTree:
        """Keep the nodes of all levels that are worth verifying (re-ranking, as in EAGLE-2)."""
        self._drafted = tree
        kept = worth_verifying(self._accepted, self._verify, self._rate)
        return tree if len(kept) == len(tree) else tree.subset(kept.tolist())

    def observe(self, tree: TokenTree, nodes: Sequence[int], tokens: Sequence[int]) -> None:
        self._tokens = 0.97 * self._tokens + len(tokens)
        spent = self._spent + float(self._verify[min(len(tree), self._o.nmax)])
        self._seconds = 0.97 * self._seconds + spent
        if not self._levels:
            return
        self._learn(tokens)

    def _learn(self, tokens: Sequence[int]) -> None:
        """Walk the drafted tree along what was committed; nodes that were pruned count as well."""
        parent = ROOT
        for depth, (level, token) in enumerate(zip(self._levels, tokens, strict=False)):
            row = int(np.flatnonzero(level.parents == parent)[0]) if parent in level.parents else -1
            if row < 0:
                return
            node = self._drafted.child(parent, token)
            rank = -1 if node is None else self._drafted.ranks[node]
            happened = np.arange(level.logits.shape[1]) == rank
            self._candidate.learn(level.logits[row], happened)
            held = float(0 <= rank < SERVED)
            self._node.learn(level.served[row : row + 1], np.array([held]))
            self._recent += 0.05 * (held - self._recent)
            if depth == 0:
                self._lately += 0.1 * (held - self._lately)
            else:
                self._carry[depth] += 0.05 * (held - self._carry[depth])
            if node is None:
                return
            parent = node


def worth_verifying(accepted: np.ndarray, seconds: np.ndarray, rate: float) -> np.ndarray:
    """The nodes whose verification brings most tokens beyond what its time is worth.

    Args:
        accepted: (nodes,) chance of each that it is accepted, no child's above its parent's.
        seconds: (limit + 1,) of a verification of 0, 1, ... nodes.
        rate: λ, tokens per second.

    Returns:
        Indices, best first: those that maximise Σ accepted - rate · seconds[number]. A parent
        never comes after its child, so that they form a tree.
    """
    order = np.argsort(-accepted, kind="stable")[: len(seconds) - 1]
    gains = np.concatenate([[0.0], np.cumsum(accepted[order])]) - rate * seconds[: len(order) + 1]
    return order[: int(gains.argmax())]


def _one(value: float) -> np.ndarray:
    return np.array([value])

"""Two small networks that predict what the target accepts of a draft, evaluated per tree level.

A draft's probabilities are not acceptance probabilities: a draft that is wrong is usually
confidently wrong, and the accepted token is then often its second or third candidate. The first
network predicts whether a candidate is accepted where its parent is. The second predicts, before a
node is expanded, whether its candidates will hit: whether the accepted token is among the first
`HIT_RANKS`. Both have one hidden layer with tanh. `benchmarks.replay.fit` trains them;
`tests.core.reference_networks` has the features in plain form.

A level usually has one or two parents, so that numpy calls cost more than arithmetic. Feature
scaling is therefore folded into the first layer, and what remains for so few numbers is plain
Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files
from math import log
from operator import mul
from typing import NamedTuple

import numpy as np

from sage_core.trees.policy import BIASES

HIDDEN = 32
HIT_RANKS = 4
MIN_PROB = 1e-6
"""Smaller draft probabilities count as this one."""
_LOG_MIN = log(MIN_PROB)
MIN_CHANCE = 1e-4
"""Smaller chances of acceptance count as this one."""
MAX_LOGIT = 6.0
"""Bound of all logits, since inputs may be unlike anything seen in training."""
MAX_DEPTH, MAX_GAP, MAX_RANK = 12, 8.0, 4
"""Bounds of three inputs: level, nats between the first candidate and this one, parent's rank."""
CONFIDENT = 0.97
"""Least probability of the first candidate at a confident level."""
_CONFIDENT_PROB = 0.995  # the tables are exact for this one, within a few hundredths for others
_CHANCES, _NATS = 10, 0.2
"""Chances of reaching a level in the tables: how many, and their distance in nats, from 1 down."""


class Weights(NamedTuple):
    """One network, float32: ``w1`` (features, HIDDEN), ``b1`` and ``w2`` (HIDDEN,), ``b2`` (1,)."""

    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray


class Parent(NamedTuple):
    """A parent of a level: its chance of acceptance and its rank; the defaults are the root's."""

    accepted: float = 1.0
    rank: int = 0


class Node(NamedTuple):
    """A node that may be expanded: draft probability, α of the distribution that it was chosen
    from, chance of acceptance, rank."""

    prob: float
    alpha: float
    accepted: float
    rank: int


@cache
def fitted_weights() -> tuple[Weights, Weights]:
    """The weights that come with the package: of the candidate and of the node network."""
    from safetensors.numpy import load_file

    with as_file(files("sage_core") / "assets" / "planner.safetensors") as path:
        stored = load_file(path)
    candidate, node = (
        Weights(*(stored[f"{name}.{part}"] for part in Weights._fields))
        for name in ("candidate", "node")
    )
    return candidate, node


class CandidateNetwork:
    """Logits of candidates being accepted where their parents are, of ``k`` candidates a parent."""

    def __init__(self, weights: Weights, k: int) -> None:
        w = weights.w1.astype(np.float64)
        ranks = np.arange(k)
        self._log_k = log(k) if k > 1 else 1.0
        # (k, HIDDEN): what depends on the rank alone.
        by_rank = np.outer(ranks == 0, w[3]) + np.outer(np.log1p(ranks) / 1.2 - 1, w[4])
        self.by_rank = by_rank.astype(np.float32)
        self.by_rank += w[0] - w[2] - w[5] + 0.5 * w[6] - 0.5 * w[7] - w[8] + weights.b1
        # Inputs: log p, gap to the first, α, log chance of the parent, its rank, level, pace.
        folded = [0.25 * w[0], 0.25 * w[1], 2 * w[2], w[6] / 3, w[7] / 2, w[5] / 6, w[8]]
        self.w1 = np.stack(folded).astype(np.float32)
        self.w2, self.b2 = weights.w2, weights.b2
        self._bias_columns = np.minimum(np.arange(k), BIASES - 1)

    def __call__(
        self,
        depth: int,
        probs: Sequence[Sequence[float]],
        parents: Sequence[Parent],
        root_alpha: float | None,
        recent: float,
        bias: np.ndarray | None = None,
    ) -> tuple[list[list[float]], list[float]]:
        """Logits ``[parent][rank]`` of one level, and α of each parent's distribution.

        Args:
            depth: the level that the candidates would form.
            probs: ``[parent][rank]``, the draft's probabilities in descending order.
            parents: their parents.
            root_alpha: α of the step's root; None where the candidates are the root's own.
            recent: moving hit rate of the levels that were reached, 0 to 1.
            bias: `Level.acceptance`, added to the logits.
        """
        logs = [[log(p) if p > MIN_PROB else _LOG_MIN for p in row] for row in probs]
        alphas = [self.alpha(*pair) for pair in zip(probs, logs, strict=True)]
        pace = (alphas[0] if root_alpha is None else root_alpha) + recent
        inputs = []
        for row, alpha, parent in zip(logs, alphas, parents, strict=True):
            chance, rank = log(max(parent.accepted, MIN_CHANCE)), min(parent.rank, MAX_RANK)
            shared = alpha, chance, rank, min(depth, MAX_DEPTH), pace
            inputs += [(x, min(row[0] - x, MAX_GAP), *shared) for x in row]
        hidden = np.array(inputs, np.float32) @ self.w1
        hidden = hidden.reshape(len(parents), -1, HIDDEN) + self.by_rank[: len(logs[0])]
        np.tanh(hidden, out=hidden)
        logits = hidden @ self.w2
        if bias is not None:
            wide = len(logs[0])
            logits += bias if wide == BIASES else bias[:, self._bias_columns[:wide]]
        return [_bounded(row, float(self.b2[0])) for row in logits.tolist()], alphas

    def alpha(self, probs: Sequence[float], logs: Sequence[float]) -> float:
        """1 - H / log k of renormalised probabilities: α of SAGE (arXiv 2602.00523, Eq. 7-9)."""
        total = sum(probs)
        if len(probs) < 2 or total <= MIN_PROB:
            return 1.0
        along = sum(map(mul, probs, logs))
        return min(1.0, max(0.0, 1 + (along / total - log(total)) / self._log_k))


class NodeNetwork:
    """Logits of nodes' candidates hitting, from before they are drafted."""

    def __init__(self, weights: Weights) -> None:
        w = weights.w1.astype(np.float64)
        # Inputs: log p, α, log chance, rank, level, is the root, pace, root hit rate, 1.
        folded = [w[0] / 3, 2 * w[1], w[2] / 3, w[5] / 2, w[3] / 6, w[4], w[6], 2 * w[7]]
        rest = 0.5 * w[0] - w[1] + 0.5 * w[2] - w[3] - 0.5 * w[5] - w[6] - w[7] + weights.b1
        self.w1 = np.stack([*folded, rest]).astype(np.float32)
        self.w2, self.b2 = weights.w2, weights.b2

    def __call__(
        self, depth: int, nodes: Sequence[Node], root_alpha: float, recent: float, lately: float
    ) -> list[float]:
        """A logit for each of a level's ``nodes``.

        Args:
            depth: the nodes' own level; 0 for the root.
            nodes: of one level.
            root_alpha: α of the step's root; of the previous step's for the root itself.
            recent: moving hit rate of the levels that were reached, 0 to 1.
            lately: moving hit rate of the roots, 0 to 1.
        """
        shared = min(depth, MAX_DEPTH), float(depth == 0), root_alpha + recent, lately, 1.0
        inputs = [
            (log(max(p, MIN_PROB)), alpha, log(max(a, MIN_CHANCE)), min(rank, MAX_RANK), *shared)
            for p, alpha, a, rank in nodes
        ]
        hidden = np.array(inputs, np.float32) @ self.w1
        np.tanh(hidden, out=hidden)
        return _bounded((hidden @ self.w2).tolist(), float(self.b2[0]))


class ConfidentLevels:
    """Both networks' logits at confident levels, looked up in tables made once per step.

    At such a level a single parent's first candidate has nearly all of the probability. The logits
    then depend on the level, on the chance of reaching it, and on values that are the same in the
    whole step. About two levels of three are of this kind, and one network call takes longer than a
    tenth of a draft pass of a small head. ``k``: candidates per node.
    """

    def __init__(self, candidate: CandidateNetwork, node: NodeNetwork, k: int) -> None:
        self._networks = candidate, node
        others = [(1 - _CONFIDENT_PROB) / max(1, k - 1)] * (k - 1)
        probs = [_CONFIDENT_PROB, *others]
        logs = [log(p) for p in probs]
        alpha = candidate.alpha(probs, logs)
        places = [(d, -_NATS * i) for d in range(1, MAX_DEPTH + 1) for i in range(_CHANCES)]
        first = [(logs[0], 0.0, alpha, chance, 0, depth, 0.0) for depth, chance in places]
        own = [(logs[0], alpha, chance, 0, depth, 0.0, 0.0, 0.0, 1.0) for depth, chance in places]
        # (places, HIDDEN), without what differs from step to step.
        self._candidate_hidden = np.array(first, np.float32) @ candidate.w1 + candidate.by_rank[0]
        self._node_hidden = np.array(own, np.float32) @ node.w1
        self._accepted: list[float] = []
        self._hits: list[float] = []

    def begin(self, pace: float, lately: float) -> None:
        """Compute the tables of one step.

        ``pace``: α of the step's root plus the moving hit rate of levels; ``lately``: of roots.
        """
        candidate, node = self._networks
        self._accepted = _logits(candidate, self._candidate_hidden + pace * candidate.w1[6])
        self._hits = _logits(node, self._node_hidden + (pace * node.w1[6] + lately * node.w1[7]))

    def accepted(self, depth: int, above: float) -> float:
        """Logit of the first candidate at level ``depth``, below a node of chance ``above``."""
        return self._accepted[_place(depth, above)]

    def hits(self, depth: int, accepted: float) -> float:
        """Logit of that candidate's own candidates hitting, its chance being ``accepted``."""
        return self._hits[_place(depth, accepted)]


@cache
def planner_networks(k: int) -> tuple[CandidateNetwork, NodeNetwork]:
    """Both networks with the fitted weights, for ``k`` candidates per node."""
    candidate, node = fitted_weights()
    return CandidateNetwork(candidate, k), NodeNetwork(node)


def _logits(network: CandidateNetwork | NodeNetwork, hidden: np.ndarray) -> list[float]:
    logits: list[float] = (np.tanh(hidden) @ network.w2 + network.b2).tolist()
    return logits


def _place(depth: int, chance: float) -> int:
    column = int(0.5 - log(chance) / _NATS) if chance > 0.01 else _CHANCES
    return _CHANCES * (min(depth, MAX_DEPTH) - 1) + min(column, _CHANCES - 1)


def _bounded(sums: Sequence[float], bias: float) -> list[float]:
    return [min(MAX_LOGIT, max(-MAX_LOGIT, x + bias)) for x in sums]

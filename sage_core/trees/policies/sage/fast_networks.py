"""The acceptance networks as the planner runs them: few array calls, since those are the cost.

A level has one or two parents as a rule, so that a call of numpy costs more than its arithmetic.
The features' own scales are folded into the first layers once, each network then takes one matrix
product a layer, and what is left for so few numbers is done by Python itself. `acceptance` has the
same in plain form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log
from operator import mul
from typing import NamedTuple

import numpy as np

from sage_core.trees.policies.sage.networks import (
    BIASES,
    CERTAIN,
    FLOOR,
    HIDDEN,
    Network,
    ordinals,
)

_LOWEST = 1e-4  # a smaller chance counts as this one
_FLOOR_LOG = log(FLOOR)
_FARTHEST, _FLATTEST, _STEEPEST = 6.0, 0.6, 1.6  # bounds of a correction's bias and scale
KEPT = 0.6
"""The part of what was learned that still counts once there is reason to doubt it."""
_DOUBTED = 6  # observations that it counts as, at most, so that it is soon corrected


class Row(NamedTuple):
    """A parent of a level: the chance that it is accepted, and its rank. The root: 1 and 0."""

    accepted: float = 1.0
    rank: int = 0


class Node(NamedTuple):
    """A node that may be expanded: draft probability, α of where it was chosen, chance, rank."""

    prob: float
    alpha: float
    accepted: float
    rank: int


class CandidateNetwork:
    """Logits of candidates being accepted where their parents are; of `k` candidates a parent."""

    def __init__(self, network: Network, k: int) -> None:
        w = network.w1.astype(np.float64)
        ranks, first = ordinals(k)
        self._log_k = log(k) if k > 1 else 1.0
        # By rank: all that does not depend on the draft's probabilities.
        self._of_rank = (np.outer(first, w[3]) + np.outer(ranks, w[4])).astype(np.float32)
        self._of_rank += w[0] - w[2] - w[5] + 0.5 * w[6] - 0.5 * w[7] - w[8] + network.b1
        folded = [0.25 * w[0], 0.25 * w[1], 2 * w[2], w[6] / 3, w[7] / 2, w[5] / 6, w[8]]
        self._w1 = np.stack(folded).astype(np.float32)
        self._w2, self._b2 = network.w2, float(network.b2[0])
        self._bias_index = np.minimum(np.arange(k), BIASES - 1)

    def __call__(
        self,
        depth: int,
        probs: Sequence[Sequence[float]],
        rows: Sequence[Row],
        root: float | None,
        recent: float,
        bias: np.ndarray | None = None,
    ) -> tuple[list[list[float]], list[float]]:
        """Of one level: logits, ``[row][rank]``, and α of each row.

        Args:
            depth: the level that the candidates would form.
            probs: ``[row][rank]`` the draft's probabilities, in falling order.
            rows: their parents.
            root: α of the step's root; None where the rows are the root's own candidates.
            recent: how often levels that were reached held the accepted token of late, 0 to 1.
            foretold: `Level.acceptance`, which is added to the logits.
        """
        logs = [[log(p) if p > FLOOR else _FLOOR_LOG for p in row] for row in probs]
        alphas = [self._alpha(*pair) for pair in zip(probs, logs, strict=True)]
        level = min(depth, 12), (alphas[0] if root is None else root) + recent
        own = []
        for row, alpha, above in zip(logs, alphas, rows, strict=True):
            shared = alpha, log(max(above.accepted, _LOWEST)), min(above.rank, 4), *level
            own += [(x, min(row[0] - x, 8.0), *shared) for x in row]
        hidden = np.array(own, np.float32) @ self._w1
        hidden = hidden.reshape(len(rows), -1, HIDDEN) + self._of_rank[: len(logs[0])]
        np.tanh(hidden, out=hidden)
        logits = hidden @ self._w2
        if bias is not None:
            wide = len(logs[0])
            logits += bias if wide == BIASES else bias[:, self._bias_index[:wide]]
        return [_bounded(row, self._b2) for row in logits.tolist()], alphas

    def _alpha(self, probs: Sequence[float], logs: Sequence[float]) -> float:
        """1 - H / log k of a row's renormalised probabilities: α of SAGE (Eq. 7-9)."""
        total = sum(probs)
        if len(probs) < 2 or total <= FLOOR:
            return 1.0
        along = sum(map(mul, probs, logs))
        return min(1.0, max(0.0, 1 + (along / total - log(total)) / self._log_k))


class NodeNetwork:
    """Logits of nodes' own candidates holding the accepted token, from before they are drafted."""

    def __init__(self, network: Network) -> None:
        w = network.w1.astype(np.float64)
        folded = [w[0] / 3, 2 * w[1], w[2] / 3, w[5] / 2, w[3] / 6, w[4], w[6], 2 * w[7]]
        rest = 0.5 * w[0] - w[1] + 0.5 * w[2] - w[3] - 0.5 * w[5] - w[6] - w[7] + network.b1
        self._w1 = np.stack([*folded, rest]).astype(np.float32)
        self._w2, self._b2 = network.w2, float(network.b2[0])

    def __call__(
        self, depth: int, nodes: Sequence[Node], root: float, recent: float, lately: float
    ) -> list[float]:
        """A logit for each of a level's ``nodes``; ``depth`` 0 is the root itself.

        ``root``, ``recent`` and ``lately`` are those of `acceptance.node_features`.
        """
        level = min(depth, 12), float(depth == 0), root + recent, lately, 1.0
        own = [
            (log(max(prob, FLOOR)), alpha, log(max(accepted, _LOWEST)), min(rank, 4), *level)
            for prob, alpha, accepted, rank in nodes
        ]
        hidden = np.array(own, np.float32) @ self._w1
        np.tanh(hidden, out=hidden)
        return _bounded((hidden @ self._w2).tolist(), self._b2)


class Correction:
    """A network's correction on line: logistic regression on the network's own logit.

    Steps shrink from ``rate`` towards ``least``, so that a pair that the network does not know is
    learnt in a few steps and a known one is disturbed little.
    """

    def __init__(self, rate: float = 0.3, least: float = 0.01) -> None:
        self._rate, self._least = rate, least
        self._scale, self._bias, self._seen = 1.0, 0.0, 0

    def recall(self, state: Mapping[str, float]) -> None:
        """Go on from what another learned of another text: its `state`, within bounds."""
        self._scale = min(_STEEPEST, max(_FLATTEST, state["scale"]))
        self._bias = min(_FARTHEST, max(-_FARTHEST, state["bias"]))
        self._seen = int(max(0.0, state["seen"]))
        self.doubt()

    def doubt(self) -> None:
        """Go a part of the way back to the network's own word, and learn faster again."""
        self._scale, self._bias = 1 + KEPT * (self._scale - 1), KEPT * self._bias
        self._seen = min(_DOUBTED, self._seen)

    @property
    def state(self) -> dict[str, float]:
        """``scale``, ``bias``, and how often it has learned: ``seen``."""
        return {"scale": self._scale, "bias": self._bias, "seen": float(self._seen)}

    def chances(self, logits: Sequence[float]) -> list[float]:
        """The corrected probabilities, in (0, 1)."""
        bias, scale = self._bias, self._scale
        return [1.0 / (1.0 + exp(-bias - scale * x)) for x in logits]

    def learn(self, logits: Sequence[float], happened: int) -> None:
        """One step of gradient descent on what was predicted: only number ``happened`` came true.

        None did where ``happened`` is -1.
        """
        self._seen += 1
        errors = [c - (i == happened) for i, c in enumerate(self.chances(logits))]
        rate = max(self._least, self._rate / (1.0 + 0.25 * self._seen))
        along = sum(e * min(4.0, max(-4.0, x)) for e, x in zip(errors, logits, strict=True))
        self._bias = min(_FARTHEST, max(-_FARTHEST, self._bias - rate * sum(errors)))
        self._scale = min(_STEEPEST, max(_FLATTEST, self._scale - 0.1 * rate * along))


def _bounded(sums: Sequence[float], bias: float) -> list[float]:
    return [min(CERTAIN, max(-CERTAIN, x + bias)) for x in sums]

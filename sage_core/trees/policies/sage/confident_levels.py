"""The acceptance networks where a draft is sure, which it is at two levels of three.

Such a level has one row whose first candidate has nearly all of the draft's probability. What the
networks say of it then depends on little: on the depth, on the chance that it is reached, and on
what is the same for all levels of a step. So a step's answers are computed at once, for a few
chances at each depth, and looked up. A call of a network takes longer than a tenth of a draft pass.
"""

from __future__ import annotations

from functools import cache
from math import log

import numpy as np

from sage_core.trees.policies.sage.networks import (
    Network,
    candidate_features,
    confidences,
    fitted,
    node_features,
)

SURE = 0.97
"""A draft is sure of a candidate that has this probability."""
_TYPICAL = 0.995  # what is computed is true of this probability, of others to a few hundredths
_DEPTHS = 12  # the networks tell deeper levels apart no more
_CHANCES, _APART = 10, 0.2
"""How many chances of reaching a level, and how far apart in nats, from 1 on."""


class SureLevels:
    """Logits of sure candidates and of their nodes, for one step after another.

    Args:
        k: candidates seen of a node.
    """

    def __init__(self, k: int) -> None:
        self._networks = fitted()
        self._hidden = _before_steps(k)
        self._accepted: list[float] = []
        self._serving: list[float] = []

    def begin(self, pace: float, lately: float) -> None:
        """Compute a step's answers.

        Args:
            pace: α of the step's root, and how often levels held the accepted token of late.
            lately: how often the root's own candidates did.
        """
        (candidate, node), (first, held) = self._networks, self._hidden
        self._accepted = _logits(candidate, first + pace * candidate.w1[8])
        self._serving = _logits(node, held + (pace * node.w1[6] + 2 * lately * node.w1[7]))

    def accepted(self, depth: int, above: float) -> float:
        """The first candidate's logit, at level ``depth`` below a node of chance ``above``."""
        return self._accepted[_place(depth, above)]

    def serving(self, depth: int, accepted: float) -> float:
        """The logit that such a candidate's own candidates will hold the accepted token."""
        return self._serving[_place(depth, accepted)]


@cache
def _before_steps(k: int) -> tuple[np.ndarray, np.ndarray]:
    """(places, HIDDEN) of each network's first layer, without what differs from step to step."""
    candidate, node = fitted()
    rest = (1 - _TYPICAL) / max(1, k - 1)
    probs = np.array([[_TYPICAL, *[rest] * (k - 1)]])
    alphas, ranks = confidences(probs), np.zeros(1, np.int64)
    chances = np.exp(-_APART * np.arange(_CHANCES))
    places = [(depth, np.array([c])) for depth in range(1, _DEPTHS + 1) for c in chances]
    first = [candidate_features(d, probs, alphas, c, ranks, 0.0, 0.0)[:1] for d, c in places]
    held = [node_features(d, probs[:, 0], alphas, c, ranks, 0.0, 0.0, 0.0) for d, c in places]
    return (
        np.concatenate(first) @ candidate.w1 + candidate.b1,
        np.concatenate(held) @ node.w1 + node.b1,
    )


def _logits(network: Network, hidden: np.ndarray) -> list[float]:
    logits: list[float] = (np.tanh(hidden) @ network.w2 + network.b2).tolist()
    return logits


def _place(depth: int, chance: float) -> int:
    far = int(0.5 - log(chance) / _APART) if chance > 0.01 else _CHANCES
    return _CHANCES * (min(depth, _DEPTHS) - 1) + min(far, _CHANCES - 1)

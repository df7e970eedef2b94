"""What the target will accept of a draft, predicted by two small networks that go on learning.

A draft's probabilities are not acceptance probabilities: a draft that is wrong is usually
confidently wrong, and the accepted token is then often its second or third choice. The first
network predicts whether a candidate is accepted given that its parent is, the second, before a
node's own candidates are drafted, whether they will hold the accepted token. Both have one hidden
layer; they come fitted (`benchmarks.replay.fit`) and are corrected on line by a scale and a bias.
Here they are in plain form, as they are fitted; `planning` runs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

import numpy as np

HIDDEN = 32
"""Units of the hidden layer."""
CANDIDATE_FEATURES = 9
NODE_FEATURES = 8
SERVED = 4
"""A node's candidates hold the accepted token when it is among so many likeliest."""
BIASES = 4
"""What a draft may foretell of a node's candidates: of the first, second, third, and later ones."""
PARTS = ("w1", "b1", "w2", "b2")
FLOOR = 1e-6
"""A smaller probability counts as this one."""
CERTAIN = 6.0
"""No logit is further from 0: what a network has never seen may come."""


@dataclass(frozen=True)
class Network:
    """One hidden layer: ``w1`` (features, HIDDEN), ``b1``, ``w2`` (HIDDEN,), ``b2`` (1,)."""

    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(n, features) float32 to (n,) logits."""
        hidden = features @ self.w1
        hidden += self.b1
        np.tanh(hidden, out=hidden)
        logits = hidden @ self.w2
        logits += self.b2
        return np.minimum(np.maximum(logits, -CERTAIN), CERTAIN)


@cache
def fitted() -> tuple[Network, Network]:
    """The networks that come with the package: for candidates, and for nodes to be drafted."""
    from safetensors.numpy import load_file

    with as_file(files("sage_core") / "assets" / "planner.safetensors") as path:
        weights = load_file(path)

    def network(name: str) -> Network:
        return Network(*(weights[f"{name}.{part}"] for part in PARTS))

    return network("candidate"), network("node")


def confidences(probs: np.ndarray) -> np.ndarray:
    """(n,) 1 - H / log k of each row's (n, k) renormalised probabilities: α of SAGE (Eq. 7-9)."""
    k = probs.shape[1]
    if k < 2:
        return np.ones(len(probs))
    p = probs / np.maximum(probs.sum(axis=1, keepdims=True), FLOOR)
    terms = p * np.log(np.maximum(p, 1e-12))
    alpha: np.ndarray = 1.0 + terms.sum(axis=1) / np.log(k)
    return np.minimum(np.maximum(alpha, 0.0), 1.0)


@cache
def ordinals(k: int) -> tuple[np.ndarray, np.ndarray]:
    """(k,) each: a rank as a feature, and whether it is the first."""
    ranks = np.arange(k)
    return np.log1p(ranks) / 1.2 - 1, ranks == 0


def candidate_features(
    depth: int,
    probs: np.ndarray,
    alphas: np.ndarray,
    above: np.ndarray,
    ranks: np.ndarray,
    root: float,
    recent: float,
) -> np.ndarray:
    """(rows · k, CANDIDATE_FEATURES) float32 for all candidates of one level, row by row.

    Args:
        depth: the level that they would form.
        probs: (rows, k) the draft's probabilities, in falling order.
        alphas: (rows,) of `confidences`.
        above: (rows,) predicted acceptance of the parents, 1 for the root.
        ranks: (rows,) the parents' own ranks.
        root: α of the step's root.
        recent: how often levels that were reached held the accepted token of late, 0 to 1.
    """
    rows, k = probs.shape
    logs = np.log(np.maximum(probs, FLOOR))
    order, first = ordinals(k)
    out = np.empty((rows, k, CANDIDATE_FEATURES), np.float32)
    out[..., 0] = logs * 0.25 + 1
    out[..., 1] = np.minimum(logs[:, :1] - logs, 8) * 0.25
    out[..., 2] = alphas[:, None] * 2 - 1
    out[..., 3] = first
    out[..., 4] = order
    out[..., 5] = min(depth, 12) / 6 - 1
    out[..., 6] = np.log(np.maximum(above, 1e-4))[:, None] / 3 + 0.5
    out[..., 7] = np.minimum(ranks, 4)[:, None] / 2 - 0.5
    out[..., 8] = root + recent - 1
    return out.reshape(rows * k, CANDIDATE_FEATURES)


def node_features(
    depth: int,
    probs: np.ndarray,
    alphas: np.ndarray,
    accepted: np.ndarray,
    ranks: np.ndarray,
    root: float,
    recent: float,
    lately: float,
) -> np.ndarray:
    """(nodes, NODE_FEATURES) float32 for nodes of one level that may be expanded.

    Args:
        depth: the nodes' own level; 0 for the root, whose ``probs`` and ``accepted`` are 1.
        probs: (nodes,) the draft's probability of each given its parent.
        alphas: (nodes,) α of the distribution that each was chosen from; of the last step's root
            for the root.
        accepted: (nodes,) predicted acceptance.
        ranks: (nodes,) each node's rank.
        root: α of the step's root, of the last one's for the root.
        recent: how often levels that were reached held the accepted token of late, 0 to 1.
        lately: how often the root's own candidates held the accepted token of late, 0 to 1.
    """
    out = np.empty((len(probs), NODE_FEATURES), np.float32)
    out[:, 0] = np.log(np.maximum(probs, FLOOR)) / 3 + 0.5
    out[:, 1] = alphas * 2 - 1
    out[:, 2] = np.log(np.maximum(accepted, 1e-4)) / 3 + 0.5
    out[:, 3] = min(depth, 12) / 6 - 1
    out[:, 4] = float(depth == 0)
    out[:, 5] = np.minimum(ranks, 4) / 2 - 0.5
    out[:, 6] = root + recent - 1
    out[:, 7] = lately * 2 - 1
    return out

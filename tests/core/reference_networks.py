"""The planner's networks in plain form: features as defined, evaluated as written.

`benchmarks.replay.fit` trains on these features; the tests compare the package's implementation
with them.
"""

from __future__ import annotations

import numpy as np

from sage_core.trees.policies.sage.networks import MAX_LOGIT, MIN_PROB, Weights

CANDIDATE_FEATURES = 9
NODE_FEATURES = 8


def logits_of(weights: Weights, features: np.ndarray) -> np.ndarray:
    """(n, features) float32 to (n,) logits."""
    logits = np.tanh(features @ weights.w1 + weights.b1) @ weights.w2 + weights.b2
    return np.clip(logits, -MAX_LOGIT, MAX_LOGIT)


def confidences(probs: np.ndarray) -> np.ndarray:
    """(n,) 1 - H / log k of (n, k) renormalised probabilities: α of SAGE (Eq. 7-9)."""
    k = probs.shape[1]
    if k < 2:
        return np.ones(len(probs))
    p = probs / np.maximum(probs.sum(axis=1, keepdims=True), MIN_PROB)
    terms = p * np.log(np.maximum(p, 1e-12))
    return np.clip(1.0 + terms.sum(axis=1) / np.log(k), 0.0, 1.0)


def candidate_features(
    depth: int,
    probs: np.ndarray,
    alphas: np.ndarray,
    above: np.ndarray,
    ranks: np.ndarray,
    root_alpha: float,
    recent: float,
) -> np.ndarray:
    """(parents · k, CANDIDATE_FEATURES) float32 for all candidates of one level, parent by parent.

    Args:
        depth: the level that they would form.
        probs: (parents, k) the draft's probabilities, in descending order.
        alphas: (parents,) of `confidences`.
        above: (parents,) predicted acceptance of the parents, 1 for the root.
        ranks: (parents,) the parents' own ranks.
        root_alpha: α of the step's root.
        recent: moving hit rate of the levels that were reached, 0 to 1.
    """
    parents, k = probs.shape
    logs = np.log(np.maximum(probs, MIN_PROB))
    out = np.empty((parents, k, CANDIDATE_FEATURES), np.float32)
    out[..., 0] = logs * 0.25 + 1
    out[..., 1] = np.minimum(logs[:, :1] - logs, 8) * 0.25
    out[..., 2] = alphas[:, None] * 2 - 1
    out[..., 3] = np.arange(k) == 0
    out[..., 4] = np.log1p(np.arange(k)) / 1.2 - 1
    out[..., 5] = min(depth, 12) / 6 - 1
    out[..., 6] = np.log(np.maximum(above, 1e-4))[:, None] / 3 + 0.5
    out[..., 7] = np.minimum(ranks, 4)[:, None] / 2 - 0.5
    out[..., 8] = root_alpha + recent - 1
    return out.reshape(parents * k, CANDIDATE_FEATURES)


def node_features(
    depth: int,
    probs: np.ndarray,
    alphas: np.ndarray,
    accepted: np.ndarray,
    ranks: np.ndarray,
    root_alpha: float,
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
        root_alpha: α of the step's root, of the last one's for the root.
        recent: moving hit rate of the levels that were reached, 0 to 1.
        lately: moving hit rate of the roots, 0 to 1.
    """
    out = np.empty((len(probs), NODE_FEATURES), np.float32)
    out[:, 0] = np.log(np.maximum(probs, MIN_PROB)) / 3 + 0.5
    out[:, 1] = alphas * 2 - 1
    out[:, 2] = np.log(np.maximum(accepted, 1e-4)) / 3 + 0.5
    out[:, 3] = min(depth, 12) / 6 - 1
    out[:, 4] = float(depth == 0)
    out[:, 5] = np.minimum(ranks, 4) / 2 - 0.5
    out[:, 6] = root_alpha + recent - 1
    out[:, 7] = lately * 2 - 1
    return out

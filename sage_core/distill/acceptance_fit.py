"""Fits the acceptance predictor of a trained head to texts that it drafts.

A draft's probabilities do not say whether the target will agree: a colour that only the image shows
and the second half of a word may be equally probable. The draft's hidden state tells them apart
(SpecDec++, Huang et al., arXiv 2405.19715, decides by it when to stop drafting). The predictor is
one linear map from a predicted feature to log odds, which the `sage` planner adds to its own
estimate of each candidate's acceptance. It is fitted after the head is trained and does not change
what the head drafts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sage_core.drafts.head.module import Head
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.runtime.backend import Backend
from sage_core.trees.policies.sage.policy import UNKNOWN, Sage, SagePlanner
from sage_core.trees.policy import BIASES, Growth, Level, TreePlanner
from sage_core.trees.tree import TokenTree

RIDGE = 100.0
"""Ridge penalty on weights of features of standard deviation 1."""
MAX_NODES = 25_000
"""Nodes that the predictor is fitted to at most: four times as many improve it little."""
_MIN_NODES = 200
_MAX_ITERATIONS, _TOLERANCE = 20, 1e-4


@dataclass
class NodeSamples:
    """Expanded nodes on accepted paths: features and logits before, the accepted candidate after.

    ``features`` (n, size): predicted at each node. ``logits`` (n, k): the planner's acceptance
    logits of the node's candidates, -inf where it had none. ``ranks`` (n,): of the accepted
    candidate, -1 where none was accepted.
    """

    features: list[np.ndarray] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class RecordingSage(Sage):
    """Policy `sage` that records `NodeSamples`. `Level.acceptance` must be the feature itself, see
    `identity_predictor`."""

    samples: NodeSamples = field(default_factory=NodeSamples)

    def planner(self) -> TreePlanner:
        return _RecordingPlanner(self)


class _RecordingPlanner(SagePlanner):
    def __init__(self, options: RecordingSage) -> None:
        super().__init__(options)
        self._samples = options.samples
        self._features: list[np.ndarray] = []

    def grow(self, level: Level) -> Growth:
        if level.depth == 1:
            self._features = []
        assert level.acceptance is not None
        self._features.append(level.acceptance)
        return self._grow_by_networks(replace(level, acceptance=None))

    def observe(self, tree: TokenTree, nodes: Sequence[int], tokens: Sequence[int]) -> None:
        for features, (level, row, rank) in zip(
            self._features, self._outcomes(tokens), strict=False
        ):
            logits = np.full(self._o.k, -np.inf)
            logits[: len(level.logits[row])] = level.logits[row]
            self._samples.features.append(features[row])
            self._samples.logits.append(logits)
            self._samples.ranks.append(rank)
        super().observe(tree, nodes, tokens)


def fit_acceptance(
    target: Any,
    head: Head,
    prompts: Iterable[Mapping[str, Any]],
    max_new_tokens: int,
    backend: Backend | None = None,
    max_nodes: int = MAX_NODES,
) -> int:
    """Fit ``head.acceptance`` to texts decoded with the head; replaces the one it has.

    Args:
        head: trained and placed (`sage_core.drafts.head.checkpoint.placed`).
        prompts: as processors return them; consumed until there are ``max_nodes`` nodes.
        max_new_tokens: of each text.

    Returns:
        How many nodes it was fitted to; 0 where they were too few, and the head is unchanged.
    """
    samples, before = NodeSamples(), head.acceptance
    head.acceptance = identity_predictor(head)
    try:
        policy = RecordingSage(samples=samples)
        decoder = SpeculativeDecoder(target, head, policy, costs=UNKNOWN, backend=backend)
        for prompt in prompts:
            decoder.generate(**prompt, max_new_tokens=max_new_tokens)
            if len(samples.ranks) >= max_nodes:
                break
    finally:
        head.acceptance = before
    count = len(samples.ranks)
    if count < _MIN_NODES:
        return 0
    features, logits = np.stack(samples.features), np.stack(samples.logits)
    weight, bias = fit_biases(features, logits, np.array(samples.ranks))
    fitted = nn.Linear(head.config.hidden_size, BIASES)
    with torch.no_grad():
        fitted.weight.copy_(weight)
        fitted.bias.copy_(bias)
    head.acceptance = fitted.to(head.device, head.dtype).eval().requires_grad_(False)
    head.config = replace(head.config, acceptance=True)
    return count


def identity_predictor(head: Head) -> nn.Linear:
    """A stand-in for `Head.acceptance` that returns the feature itself."""
    size = head.config.hidden_size
    identity = nn.Linear(size, size).requires_grad_(False)
    identity.weight.copy_(torch.eye(size))
    identity.bias.zero_()
    return identity


def fit_biases(
    features: np.ndarray, logits: np.ndarray, ranks: np.ndarray, ridge: float = RIDGE
) -> tuple[Tensor, Tensor]:
    """Log odds to add to the logits, linear in the features: one ridge logistic regression for
    each of the first candidates and one for all later ones.

    Args:
        features: (n, size).
        logits: (n, k) of the nodes' candidates; -inf where there is none.
        ranks: (n,) of the accepted candidate, -1 where none was.
        ridge: weight of Σ w² over features scaled to standard deviation 1.

    Returns:
        float64 weight (BIASES, size) and bias (BIASES,).
    """
    x = torch.from_numpy(features).double()
    mean, deviation = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
    x = torch.cat([(x - mean) / deviation, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    offsets = torch.from_numpy(logits).double()
    accepted = torch.from_numpy(ranks)[:, None] == torch.arange(offsets.shape[1])
    columns = []
    for group in range(BIASES):
        end = group + 1 if group < BIASES - 1 else None
        columns.append(_newton(x, offsets[:, group:end], accepted[:, group:end], ridge))
    found = torch.stack(columns)
    weight = found[:, :-1] / deviation
    return weight, found[:, -1] - weight @ mean


def _newton(x: Tensor, offsets: Tensor, accepted: Tensor, ridge: float) -> Tensor:
    """w (size + 1,) that maximizes the likelihood of accepted (n, m) under log odds offsets + x w,
    by Newton's method."""
    w = x.new_zeros(x.shape[1])
    penalty = torch.full_like(w, ridge)
    penalty[-1] = 1e-6  # the bias is not penalized
    for _ in range(_MAX_ITERATIONS):
        chances = torch.sigmoid(offsets + (x @ w)[:, None])
        errors = (chances - accepted.double()).sum(dim=1)
        curvature = (chances * (1 - chances)).sum(dim=1)
        hessian = (x * curvature[:, None]).T @ x + penalty.diag()
        step = torch.linalg.solve(hessian, x.T @ errors + penalty * w)
        w = w - step
        if float(step.abs().max()) < _TOLERANCE:
            break
    return w

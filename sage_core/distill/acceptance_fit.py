"""A head's own word on its candidates: what the target accepts of them, read off its features.

A draft's probabilities say how sure it is, and not whether it has grounds to be: a colour that only
the picture tells and the second half of a word may be equally sure. The draft's hidden state knows
the one from the other (SpecDec++, Huang et al., arXiv 2405.19715, decides by it when to stop). Here
it is one matrix from a predicted feature to log odds, which the planner adds to what it thinks of
the candidates by their probabilities. It is fitted once the head is trained, to texts that are
decoded with it, and changes nothing of what is drafted.
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

__all__ = ["RIDGE", "Seen", "fit", "learn_acceptance", "whole_feature"]

RIDGE = 100.0
"""Of the fit, in units of the features' own deviations: as if from so many indifferent nodes."""
ENOUGH = 25_000
"""Nodes that it is fitted to at most: four times as many tell little more."""
_LEAST = 200  # fewer nodes tell nothing
_STEPS, _CLOSE = 20, 1e-4


@dataclass
class Seen:
    """Nodes on the way of decoded texts: what was foreseen of their candidates and what happened.

    ``features`` (n, size) predicted at each node; ``logits`` (n, k) what the planner's network says
    of the node's candidates, -inf where it was not asked; ``ranks`` (n,) of the accepted one, -1
    where none was.
    """

    features: list[np.ndarray] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Watched(Sage):
    """`sage` at fixed costs, which notes what it meets. It wants a head that gives its features in
    place of `Level.acceptance`."""

    seen: Seen = field(default_factory=Seen)

    def planner(self) -> TreePlanner:
        return _Watching(self)


class _Watching(SagePlanner):
    def __init__(self, options: Watched) -> None:
        super().__init__(options)
        self._seen = options.seen
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
            self._seen.features.append(features[row])
            self._seen.logits.append(logits)
            self._seen.ranks.append(rank)
        super().observe(tree, nodes, tokens)


def learn_acceptance(
    target: Any,
    head: Head,
    prompts: Iterable[Mapping[str, Any]],
    max_new_tokens: int,
    backend: Backend | None = None,
    enough: int = ENOUGH,
) -> int:
    """Fit ``head.acceptance``, in place of what it has, to texts that the head drafts.

    Args:
        target: the head's loaded target.
        head: trained and placed (`heads.checkpoint.placed`).
        prompts: as processors return them; read until there are ``enough`` nodes.
        max_new_tokens: of each text at most.
        backend: how passes run.
        enough: nodes to fit to.

    Returns:
        How many nodes it was fitted to; 0 where there were too few, and the head is as it was.
    """
    seen, before = Seen(), head.acceptance
    head.acceptance = whole_feature(head)
    try:
        policy = Watched(seen=seen)
        decoder = SpeculativeDecoder(target, head, policy, costs=UNKNOWN, backend=backend)
        for prompt in prompts:
            decoder.generate(**prompt, max_new_tokens=max_new_tokens)
            if len(seen.ranks) >= enough:
                break
    finally:
        head.acceptance = before
    count = len(seen.ranks)
    if count < _LEAST:
        return 0
    weight, bias = fit(np.stack(seen.features), np.stack(seen.logits), np.array(seen.ranks))
    found = nn.Linear(head.config.hidden_size, BIASES)
    with torch.no_grad():
        found.weight.copy_(weight)
        found.bias.copy_(bias)
    head.acceptance = found.to(head.device, head.dtype).eval().requires_grad_(False)
    head.config = replace(head.config, acceptance=True)
    return count


def whole_feature(head: Head) -> nn.Linear:
    """In place of `Head.acceptance`: the features themselves."""
    size = head.config.hidden_size
    same = nn.Linear(size, size).requires_grad_(False)
    same.weight.copy_(torch.eye(size))
    same.bias.zero_()
    return same


def fit(
    features: np.ndarray, logits: np.ndarray, ranks: np.ndarray, ridge: float = RIDGE
) -> tuple[Tensor, Tensor]:
    """What is to be added to the logits, by features: ridge logistic regression, one a column.

    Args:
        features: (n, size).
        logits: (n, k) of the nodes' candidates; -inf where there is none.
        ranks: (n,) of the accepted one, -1 where none was.
        ridge: weight of Σ w² over features of deviation 1.

    Returns:
        float64 weight (FORETOLD, size) and bias (FORETOLD,).
    """
    x = torch.from_numpy(features).double()
    mean, deviation = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
    x = torch.cat([(x - mean) / deviation, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    offsets = torch.from_numpy(logits).double()
    happened = torch.from_numpy(ranks)[:, None] == torch.arange(offsets.shape[1])
    columns = []
    for group in range(BIASES):
        end = group + 1 if group < BIASES - 1 else None
        columns.append(_newton(x, offsets[:, group:end], happened[:, group:end], ridge))
    found = torch.stack(columns)
    weight = found[:, :-1] / deviation
    return weight, found[:, -1] - weight @ mean


def _newton(x: Tensor, offsets: Tensor, happened: Tensor, ridge: float) -> Tensor:
    """w (size + 1,) that makes happened (n, m) likeliest under the log odds offsets + x w."""
    w = x.new_zeros(x.shape[1])
    penalty = torch.full_like(w, ridge)
    penalty[-1] = 1e-6  # the bias is free
    for _ in range(_STEPS):
        chances = torch.sigmoid(offsets + (x @ w)[:, None])
        errors = (chances - happened.double()).sum(dim=1)
        curvature = (chances * (1 - chances)).sum(dim=1)
        hessian = (x * curvature[:, None]).T @ x + penalty.diag()
        step = torch.linalg.solve(hessian, x.T @ errors + penalty * w)
        w = w - step
        if float(step.abs().max()) < _CLOSE:
            break
    return w

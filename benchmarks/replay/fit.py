"""Fit the two networks of `sage` to recorded drafts.

    python -m benchmarks.replay.fit FILE.npz [FILE.npz ...] --output planner.safetensors

Samples are the text's own path through the recorded trees: at every level that it reaches, which of
the path's candidates is accepted, and whether they held the accepted token. Features of earlier
steps come from walking the text with a fixed tree.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from benchmarks.replay.record import LEVELS, Recording, load
from sage_core.trees.policies.sage.networks import HIDDEN, HIT_RANKS, Weights
from tests.core.reference_networks import (
    CANDIDATE_FEATURES,
    NODE_FEATURES,
    candidate_features,
    confidences,
    logits_of,
    node_features,
)

RANKS = 10
"""Candidates of a node that the policy scores."""


@dataclass
class Samples:
    """Features and outcomes of both networks, row by row."""

    candidates: list[np.ndarray]
    accepted: list[np.ndarray]
    nodes: list[np.ndarray]
    held: list[np.ndarray]

    def joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(n, features), (n,), (m, features), (m,)."""
        return (
            np.concatenate(self.candidates),
            np.concatenate(self.accepted),
            np.concatenate(self.nodes),
            np.concatenate(self.held),
        )


@dataclass
class Past:
    """Features of the steps before."""

    alpha: float = 0.7
    recent: float = 0.9
    lately: float = 0.9


WORSE = (*(0.0,) * 12, 0.5, 1.0)
"""For each walk of a text, the share of correct candidates that is removed: the samples then also
cover drafts of low quality."""


def gather(
    recordings: Sequence[Recording], seed: int = 0, network: Weights | None = None
) -> Samples:
    """Samples of all texts, each walked from several starts so that all positions are met.

    ``network`` predicts the acceptance of parents; without one the draft's probability stands in.
    """
    samples, rng = Samples([], [], [], []), np.random.default_rng(seed)
    for recording in recordings:
        for start, worse in enumerate(WORSE):
            past, at = Past(), start % 5
            while at < len(recording.ids) - 1:
                at += 1 + _position(recording, at, past, samples, rng, worse, network)
    return samples


def _position(
    recording: Recording,
    at: int,
    past: Past,
    samples: Samples,
    rng: np.random.Generator,
    worse: float,
    network: Weights | None,
) -> int:
    """Add one position's samples; the accepted length of a step that drafts eight levels."""
    position, future = recording.positions[at], recording.ids[at + 1 :]
    row, above, rank, probability = 0, 1.0, 0, 1.0
    alpha, root, length, recent = past.alpha, past.alpha, 0, past.recent
    for level in range(min(LEVELS, len(future))):
        probs = position.probs[level, row : row + 1, :RANKS].astype(np.float64)
        samples.nodes.append(
            node_features(
                level,
                np.array([probability]),
                np.array([alpha]),
                np.array([above]),
                np.array([rank]),
                root,
                past.recent,
                past.lately,
            )
        )
        alphas = confidences(probs)
        if level == 0:
            root = past.alpha = float(alphas[0])
        features = candidate_features(
            level + 1, probs, alphas, np.array([above]), np.array([rank]), root, recent
        )
        happened = position.tokens[level, row, :RANKS] == future[level]
        if rng.random() < worse:
            happened[:] = False
        samples.candidates.append(features)
        samples.accepted.append(happened)
        held = bool(happened[:HIT_RANKS].any())
        samples.held.append(np.array([held]))
        past.recent += 0.05 * (held - past.recent)
        if level == 0:
            past.lately += 0.1 * (held - past.lately)
        if not happened.any() or level + 1 == LEVELS:
            break
        length = level + 1
        rank = int(happened.argmax())
        probability, alpha = float(probs[0, rank]), float(alphas[0])
        chance = probability
        if network is not None:
            chances = 1 / (1 + np.exp(-logits_of(network, features)))
            chance = float(chances[rank] / max(1.0, chances.sum()))
        above *= min(1.0, max(0.02, chance))
        below = position.below(level, row, rank)
        if below is None:
            break
        row = below
    return min(length, 8)


def train(
    features: np.ndarray, happened: np.ndarray, seed: int, steps: int = 1500
) -> tuple[dict[str, np.ndarray], float]:
    """Weights of one network by name, and its loss (nats)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(features.astype(np.float32))
    y = torch.from_numpy(happened.astype(np.float32))
    w1 = (torch.randn(x.shape[1], HIDDEN, generator=generator) / x.shape[1] ** 0.5).requires_grad_()
    b1 = torch.zeros(HIDDEN, requires_grad=True)
    w2 = (torch.randn(HIDDEN, generator=generator) / HIDDEN**0.5).requires_grad_()
    b2 = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([w1, b1, w2, b2], lr=0.02, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    value = 0.0
    for _ in range(steps):
        chosen = torch.randint(len(x), (min(8192, len(x)),), generator=generator)
        logits = torch.tanh(x[chosen] @ w1 + b1) @ w2 + b2
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        value = 0.95 * value + 0.05 * float(loss.detach())
    found = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    return {name: weight.detach().numpy() for name, weight in found.items()}, value


def fit(recordings: Sequence[Recording], seed: int = 0) -> dict[str, np.ndarray]:
    """All weights, as `sage_core.trees.policies.sage.networks.fitted_weights` reads them."""
    network = None
    for _ in range(2):  # the second time parents are predicted by what the first time gave
        candidates, accepted, nodes, held = gather(recordings, seed, network).joined()
        assert candidates.shape[1] == CANDIDATE_FEATURES and nodes.shape[1] == NODE_FEATURES
        found = {"candidate": train(candidates, accepted, seed), "node": train(nodes, held, seed)}
        network = Weights(**found["candidate"][0])
    out: dict[str, np.ndarray] = {}
    for (name, (weights, loss)), y in zip(found.items(), (accepted, held), strict=True):
        plain = -np.mean(np.where(y, np.log(y.mean()), np.log(1 - y.mean())))
        print(f"{name}: {len(y)} samples, loss {loss:.4f} (a constant: {plain:.4f})")
        out |= {f"{name}.{part}": np.ascontiguousarray(weights[part]) for part in Weights._fields}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    recordings = [one for file in arguments.files for one in load(file)]
    save_file(fit(recordings, arguments.seed), arguments.output)


if __name__ == "__main__":
    main()

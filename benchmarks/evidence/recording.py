"""Distributions of draft and target at every place of held-out texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.evidence.bench import Bench
from sage_core.bench.measure import Input
from sage_core.generation.prepare import Prepared, prepare, prepare_draft
from sage_core.runtime.runner import Runner
from sage_core.trees.policies.sage_paper import confidence
from sage_core.trees.steps import Step

__all__ = ["POLICY", "K", "Recording", "record"]

K = 10
POLICY = "sage-paper"
"""The policy whose trees are recorded."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A text of n + 1 tokens: n places, each with the draft's distribution of the next token.

    The first token comes with the prefill and is never drafted: place j is about token j + 1.
    """

    item: str
    tokens: tuple[int, ...]
    probs: np.ndarray
    """(n, K) the draft's greatest probabilities, falling."""
    ranks: np.ndarray
    """(n,) how many tokens the draft gives more probability than the one that the target chose."""
    gaps: np.ndarray
    """(n,) the greatest difference of draft and target in the probability of any token."""
    steps: tuple[Step, ...]
    """Of the decoding by `POLICY`, the prefill left out."""

    @property
    def alpha(self) -> np.ndarray:
        """(n,) confidence (Eq. 9)."""
        return np.array([confidence(row) for row in self.probs])

    @property
    def entropy(self) -> np.ndarray:
        """(n,) of the K renormalised probabilities, in nats (Eq. 8)."""
        return (1 - self.alpha) * np.log(K)

    @property
    def first(self) -> np.ndarray:
        """(n,) the greatest renormalised probability."""
        return self.probs[:, 0] / self.probs.sum(axis=1)

    @property
    def right(self) -> np.ndarray:
        """(n,) bool: the draft's first choice is the target's."""
        return self.ranks == 0

    @property
    def roots(self) -> np.ndarray:
        """(steps,) the place that each step's tree starts from."""
        committed = np.cumsum([1, *(len(step.tokens) for step in self.steps)])
        return committed[:-1] - 1

    @property
    def accepted(self) -> np.ndarray:
        """(steps,) accepted lengths."""
        return np.array([len(step.accepted) for step in self.steps])


def record(bench: Bench, items: int) -> list[Recording]:
    """The recordings of the first texts; those with a single token are left out.

    Raises:
        RuntimeError: a recording is not what the engine saw.
    """
    return [recording for item in bench.inputs(items) for recording in _record(bench, item)]


def _record(bench: Bench, item: Input) -> Iterator[Recording]:
    decoded = bench.decode(bench.method(POLICY), item)
    steps = tuple(step for step in decoded.steps if not step.is_prefill)
    if not steps:
        return
    pair = bench.pair
    whole = {**item.inputs, **item.options}
    target = _reading(pair.target, prepare(pair.target, whole), decoded.tokens)
    draft = _reading(pair.draft, prepare_draft(pair.draft, dict(item.inputs)), decoded.tokens)
    size = min(target.shape[1], draft.shape[1])
    chosen = torch.tensor(decoded.tokens[1:])[:, None]
    found = Recording(
        item.id,
        decoded.tokens,
        draft.topk(K, dim=1).values.double().numpy(),
        (draft > draft.gather(1, chosen)).sum(dim=1).numpy(),
        (draft[:, :size] - target[:, :size]).abs().amax(dim=1).double().numpy(),
        steps,
    )
    _check(found, target.argmax(dim=1).tolist())
    yield found


@torch.inference_mode()
def _reading(model: Any, prepared: Prepared, tokens: tuple[int, ...]) -> torch.Tensor:
    """(n, vocabulary) float32: the next token's probabilities behind each token but the last."""
    runner = Runner(model)
    read = tokens[:-1]
    runner.prefill(prepared, len(read))
    causal = np.tril(np.ones((len(read), len(read)), dtype=bool))
    logits, _ = runner.forward(read, range(len(read)), causal)
    return logits.float().softmax(dim=1).cpu()


def _check(found: Recording, target: list[int]) -> None:
    """The places must be those that the engine drafted from and the target chose at."""
    if target != list(found.tokens[1:]):
        raise RuntimeError(f"{found.item}: the target reads another text than it wrote")
    for step, place in zip(found.steps, found.roots, strict=True):
        below = [n for n in step.tree.children(-1) if step.tree.ranks[n] < K]
        drafted = [step.tree.probs[n] for n in below]
        recorded = found.probs[place, [step.tree.ranks[n] for n in below]]
        if not np.allclose(drafted, recorded, atol=1e-4):
            raise RuntimeError(f"{found.item}: step {step.index} drafted from another place")

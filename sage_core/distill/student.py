"""What every kind of draft does while it is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from operator import add
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sage_core.distill.teacher import Example

EVALUATED_DEPTH = 6
"""Depth of the chain on which held-out samples are evaluated."""
RANKS = 10


@dataclass(frozen=True, eq=False)
class LossOutput:
    """The loss of one example, with its parts for the log."""

    loss: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True)
class ChainAcceptance:
    """How often a chain of the draft's most likely tokens would be accepted, over many roots.

    Measured along the given answer (teacher forcing): no tree is built, nothing is decoded.
    """

    reached: tuple[int, ...] = (0,) * EVALUATED_DEPTH
    """By depth: roots with at least so many answer tokens after them."""
    accepted: tuple[int, ...] = (0,) * EVALUATED_DEPTH
    """By depth: those of them whose chain agrees with the target down to that depth."""
    ranks: tuple[int, ...] = field(default=(0,) * (RANKS + 1))
    """At depth 1: how often the target's most likely token is the draft's first, second...; last:
    none of the ten."""

    def __add__(self, other: ChainAcceptance) -> ChainAcceptance:
        counts = zip(astuple(self), astuple(other), strict=True)
        return ChainAcceptance(*(tuple(map(add, *both)) for both in counts))

    @property
    def by_depth(self) -> tuple[float, ...]:
        """Fraction of roots whose chain agrees down to each depth."""
        return tuple(
            right / max(1, all_) for right, all_ in zip(self.accepted, self.reached, strict=True)
        )

    @property
    def by_rank(self) -> tuple[float, ...]:
        """Fraction of positions by the draft's rank of the target's token; last: below ten."""
        return tuple(count / max(1, sum(self.ranks)) for count in self.ranks)

    @property
    def tau(self) -> float:
        """Mean accepted length of a chain of `EVALUATED_DEPTH` tokens, without the bonus token."""
        return sum(self.by_depth)


class Student(Protocol):
    """A draft in training. The trained weights are those of ``module`` that require gradients."""

    module: nn.Module

    def compute_loss(self, example: Example) -> LossOutput:
        """The loss of one example, with gradients."""

    def evaluate(self, example: Example) -> ChainAcceptance:
        """Acceptance along the answer of one example, without gradients."""

    def save(self, folder: Path) -> None:
        """Write it as ``--draft`` loads it.

        Raises:
            OSError: it cannot be written.
        """

    def load(self, folder: Path) -> Any:
        """The saved draft, as `SpeculativeDecoder` takes it."""

    def fit_acceptance(self, draft: Any, prompts: Iterable[dict[str, Any]], folder: Path) -> int:
        """Fit the acceptance predictor of a loaded draft to texts that it drafts, and save it.

        Returns:
            How many tree nodes it was fitted to; 0 where nothing was fitted.

        Raises:
            OSError: it cannot be written.
        """


def chain_acceptance(steps: Sequence[Tensor], target: Tensor) -> ChainAcceptance:
    """Counts from logits.

    Args:
        steps: by depth k, (L - k + 1, vocabulary): the draft's logits after the answer's token
            q + k - 1, in a chain rooted at token q.
        target: (L, vocabulary): the target's.
    """
    wanted = target.argmax(dim=-1)
    right = torch.ones(len(wanted), dtype=torch.bool, device=wanted.device)
    reached, accepted = [0] * EVALUATED_DEPTH, [0] * EVALUATED_DEPTH
    for k, logits in enumerate(steps[:EVALUATED_DEPTH]):
        right = right[: len(logits)] & (logits.argmax(dim=-1) == wanted[k:])
        reached[k], accepted[k] = len(right), int(right.sum())
    first = steps[0]
    chosen = first.gather(-1, wanted[:, None])
    ranks = (first > chosen).sum(dim=-1).clamp(max=RANKS)
    counts = torch.bincount(ranks, minlength=RANKS + 1).tolist()
    return ChainAcceptance(tuple(reached), tuple(accepted), tuple(counts))

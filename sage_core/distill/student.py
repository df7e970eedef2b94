"""What every kind of draft answers while it is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sage_core.distill.teacher import Example

__all__ = ["EVALUATED_DEPTH", "RANKS", "Acceptance", "LossOutput", "Student", "agreement"]

EVALUATED_DEPTH = 6
"""Levels of the chain that held-out samples are judged by."""
RANKS = 10


@dataclass(frozen=True, eq=False)
class LossOutput:
    """The loss of one lesson, with its parts for the log."""

    loss: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True)
class Acceptance:
    """How often a chain of the draft's first choices would be accepted, over many roots.

    Judged along the answer as it stands, so that no tree is built and nothing is decoded.
    """

    reached: tuple[int, ...] = (0,) * EVALUATED_DEPTH
    """By depth: roots with so many tokens of the answer behind them."""
    accepted: tuple[int, ...] = (0,) * EVALUATED_DEPTH
    """By depth: those of them whose chain is right down to there."""
    ranks: tuple[int, ...] = field(default=(0,) * (RANKS + 1))
    """At depth 1: how often the target's choice is the draft's first, second...; last: none of
    the ten."""

    def __add__(self, other: Acceptance) -> Acceptance:
        def both(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
            return tuple(x + y for x, y in zip(a, b, strict=True))

        return Acceptance(
            both(self.reached, other.reached),
            both(self.accepted, other.accepted),
            both(self.ranks, other.ranks),
        )

    @property
    def by_depth(self) -> tuple[float, ...]:
        """The share of roots whose chain is right down to each depth."""
        return tuple(
            right / max(1, all_) for right, all_ in zip(self.accepted, self.reached, strict=True)
        )

    @property
    def by_rank(self) -> tuple[float, ...]:
        """The share of positions by the draft's rank of the target's choice; last: below ten."""
        return tuple(count / max(1, sum(self.ranks)) for count in self.ranks)

    @property
    def tau(self) -> float:
        """Mean accepted length of a chain of `EVALUATED_DEPTH` tokens."""
        return sum(self.by_depth)


class Student(Protocol):
    """A draft in training. Its parameters are those of ``module`` that ask for gradients."""

    module: nn.Module

    def compute_loss(self, example: Example) -> LossOutput:
        """The loss of one lesson, with gradients."""

    def evaluate(self, example: Example) -> Acceptance:
        """How it would do on the answer of one lesson, without gradients."""

    def save(self, folder: Path) -> None:
        """Write it as ``--draft`` loads it.

        Raises:
            OSError: it cannot be written.
        """

    def load(self, folder: Path) -> Any:
        """What was saved there, as `SpeculativeDecoder` takes a draft."""

    def fit_acceptance(self, draft: Any, prompts: Iterable[dict[str, Any]], folder: Path) -> int:
        """Let what was loaded learn what the target accepts of it, from texts that it drafts, and
        save it; how many nodes it learned from, 0 where it learned nothing.

        Raises:
            OSError: it cannot be written.
        """


def agreement(steps: Sequence[Tensor], target: Tensor) -> Acceptance:
    """Counts from logits.

    Args:
        steps: by depth k, (L - k + 1, vocabulary): the draft's logits behind the answer's token
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
    return Acceptance(tuple(reached), tuple(accepted), tuple(counts))

"""Options of visual-token pruning for the draft.

Training-free, after SpecVLM (Ji et al., arXiv 2508.16201): the draft reads n(1 - ratio) of the n
visual tokens, at their original positions. The target reads all, so the text stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sage_core.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ("verifier", "alignment", "uniform", "random", "none")


@dataclass(frozen=True)
class Pruning:
    """How many visual tokens the draft does not read, and which.

    ``ratio`` is the pruned share, 0 to 0.95; None is the paper's 0.9 for videos and 0.8 for images
    if a prompt has at least ``least`` visual tokens, else 0, because a draft pass then costs the
    same with all of them.

    ``method``: ``verifier`` is SpecVLM's two stages, by the target's attention; ``alignment``
    ranks by the increase of the similarity to the text through the target's layers, after
    ParallelVLM (arXiv 2603.19610); ``uniform`` takes evenly spaced positions; ``random`` samples
    with ``seed``; ``none`` keeps all. ``share`` is the part of the kept tokens that is chosen by
    rank (stage I); the others are evenly spaced (stage II). The paper does not give the share.

    Raises:
        OptionError: a value out of its range, or an unknown method.
    """

    ratio: float | None = None
    method: str = "verifier"
    share: float = 0.5
    least: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ratio is not None and not 0 <= self.ratio <= 0.95:
            raise OptionError(f"draft pruning must be a ratio from 0 to 0.95: {self.ratio!r}")
        if self.method not in METHODS:
            raise OptionError(
                f"unknown draft pruning method {self.method!r}: choose from {', '.join(METHODS)}"
            )
        if not 0 <= self.share <= 1:
            raise OptionError(f"share must lie between 0 and 1: {self.share!r}")

    def kept(self, visual: int, video: bool) -> int:
        """How many of ``visual`` tokens the draft reads."""
        ratio = self.ratio
        if ratio is None:
            ratio = (0.9 if video else 0.8) if visual >= self.least else 0.0
        if self.method == "none" or not visual:
            return visual
        return max(1, round(visual * (1 - ratio)))

    def choose(self, visual: int, kept: int, scores: Tensor | None = None) -> np.ndarray:
        """Ascending int64 indices of the ``kept`` among ``visual`` tokens.

        ``scores`` (visual,) are needed by the methods that rank.
        """
        if kept >= visual:
            return np.arange(visual)
        if self.method == "uniform":
            return _spread(np.arange(visual), kept)
        if self.method == "random":
            drawn = np.random.default_rng(self.seed % 2**64).choice(visual, kept, replace=False)
            return np.sort(drawn)
        if scores is None or scores.shape != (visual,):
            raise ValueError(f"{self.method} needs a score for each of {visual} visual tokens")
        ranked = np.argsort(-scores.float().cpu().numpy(), kind="stable")
        first = ranked[: round(self.share * kept)]
        rest = np.setdiff1d(np.arange(visual), first)
        return np.sort(np.concatenate([first, _spread(rest, kept - len(first))]))


def _spread(positions: np.ndarray, count: int) -> np.ndarray:
    """``count`` evenly spaced positions, each from the middle of its interval."""
    at = (np.arange(count) + 0.5) * len(positions) / max(1, count)
    return positions[at.astype(np.int64)]

"""The draft sees less: which visual tokens of the prompt it is shown, and how they are chosen.

Training-free, after SpecVLM (Ji et al., arXiv 2508.16201): the draft keeps n(1 - ratio) of the n
visual tokens, at their original positions. The target sees them all, so the text stays the same.
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
    """How many visual tokens the draft does without, and which.

    ``ratio`` is the share left out, 0 to 0.95; None means the paper's 0.9 for clips and 0.8 for
    pictures where a prompt has at least ``least`` visual tokens, and 0 where it has fewer: there
    a draft pass costs the same with all of them.

    ``method``: ``verifier`` is SpecVLM's two stages, by the target's attention; ``alignment``
    ranks by how the likeness to the text grows through the target's layers, after ParallelVLM
    (arXiv 2603.19610); ``uniform`` spreads over the positions; ``random`` draws with ``seed``;
    ``none`` keeps all. ``share`` is the part of the kept tokens that is chosen by rank (stage I);
    the rest fills up uniformly (stage II). The paper leaves the share open.

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
        """How many of ``visual`` tokens the draft sees."""
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
            drawn = np.random.default_rng(self.seed).choice(visual, kept, replace=False)
            return np.sort(drawn)
        if scores is None or scores.shape != (visual,):
            raise ValueError(f"{self.method} needs a score for each of {visual} visual tokens")
        ranked = np.argsort(-scores.float().cpu().numpy(), kind="stable")
        first = ranked[: round(self.share * kept)]
        rest = np.setdiff1d(np.arange(visual), first)
        return np.sort(np.concatenate([first, _spread(rest, kept - len(first))]))


def _spread(positions: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the positions, evenly over them, each from the middle of its stretch."""
    at = (np.arange(count) + 0.5) * len(positions) / max(1, count)
    return positions[at.astype(np.int64)]

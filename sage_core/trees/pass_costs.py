"""Seconds of forward passes by number of tokens: what cost-aware policies optimise against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sage_core.errors import OptionError

Curve = tuple[tuple[int, float], ...]
"""Points (tokens, seconds) of one pass, in rising order of tokens."""


@dataclass(frozen=True)
class Costs:
    """Seconds of a target pass, of a draft pass, and the overhead of a step.

    ``target`` and ``draft`` are curves over the tokens of one pass, linear between their points and
    beyond the last. ``step`` is the overhead per step, in seconds.

    Raises:
        OptionError: a curve that is empty, unordered, or has seconds that are not positive.
    """

    target: Curve
    draft: Curve
    step: float = 0.0

    def __post_init__(self) -> None:
        for name, curve in (("target", self.target), ("draft", self.draft)):
            if not curve or any(a[0] >= b[0] for a, b in pairwise(curve)):
                raise OptionError(f"costs: the {name} curve needs points in rising order")
            if curve[0][0] < 1 or not all(0 < seconds < np.inf for _, seconds in curve):
                raise OptionError(f"costs: the {name} curve needs tokens and seconds above 0")
        if not 0 <= self.step < np.inf:
            raise OptionError(f"costs: step must be 0 or more seconds, not {self.step}")

    @classmethod
    def linear(cls, target: float, node: float, draft: float, row: float = 0.0) -> Costs:
        """Linear curves in seconds: ``target`` and ``draft`` are passes over one token (c_t, c_d),
        ``node`` (c_v) and ``row`` are each further token of them."""

        def line(start: float, slope: float) -> Curve:
            return ((1, start), (1025, start + 1024 * slope))

        return cls(line(target, node), line(draft, row))

    def verify(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Seconds of target passes over ``tokens`` each, the root included."""
        return _along(self.target, tokens)

    def propose(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Seconds of draft passes over ``tokens`` each."""
        return _along(self.draft, tokens)


TYPICAL = Costs.linear(target=1.0, node=0.02, draft=0.15, row=0.005)
"""Fixed costs for trees that follow no clock: only their ratios count."""


def _along(curve: Curve, at: Sequence[int] | np.ndarray) -> np.ndarray:
    tokens = np.array([point[0] for point in curve], dtype=np.float64)
    seconds = np.array([point[1] for point in curve])
    wanted = np.asarray(at, dtype=np.float64)
    found = np.interp(wanted, tokens, seconds)
    if len(curve) > 1:
        slope = max(0.0, (seconds[-1] - seconds[-2]) / (tokens[-1] - tokens[-2]))
        found = found + np.maximum(0.0, wanted - tokens[-1]) * slope
    return found

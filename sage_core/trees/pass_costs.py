"""What passes cost on this machine with this pair: the measure by which trees are shaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sage_core.errors import OptionError

Curve = tuple[tuple[int, float], ...]
"""Seconds of a pass over so many tokens: (tokens, seconds), tokens rising."""


@dataclass(frozen=True)
class Costs:
    """Seconds of a target pass, of a draft pass, and of a step around them.

    ``target`` and ``draft`` are curves over the tokens of one pass; between their points and
    beyond the last they are taken to be straight. ``step`` is what a step costs besides.

    Raises:
        OptionError: a curve that is empty, not in order, or not of positive seconds.
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
        """``target`` for a pass over one token, ``node`` for each further one; likewise the draft.

        These are c_t, c_v and c_d of the method's terms.
        """

        def line(start: float, slope: float) -> Curve:
            return ((1, start), (1025, start + 1024 * slope))

        return cls(line(target, node), line(draft, row))

    def verify(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Seconds of target passes over so many tokens each, the root counted."""
        return _along(self.target, tokens)

    def propose(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Seconds of draft passes over so many tokens each."""
        return _along(self.draft, rows)


def _along(curve: Curve, at: Sequence[int] | np.ndarray) -> np.ndarray:
    tokens = np.array([point[0] for point in curve], dtype=np.float64)
    seconds = np.array([point[1] for point in curve])
    wanted = np.asarray(at, dtype=np.float64)
    found = np.interp(wanted, tokens, seconds)
    if len(curve) > 1:
        slope = max(0.0, (seconds[-1] - seconds[-2]) / (tokens[-1] - tokens[-2]))
        found = found + np.maximum(0.0, wanted - tokens[-1]) * slope
    return found

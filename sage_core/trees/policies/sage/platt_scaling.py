"""Online correction of a network's logits for the models and the text at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp

KEPT = 0.6
"""The share of what was learned that is kept for another text, or when it proved wrong."""
_FORGOTTEN_TO = 6
"""Updates that kept knowledge counts as at most, so that it is corrected soon."""
_MAX_BIAS, _MIN_SCALE, _MAX_SCALE = 6.0, 0.6, 1.6


class PlattScaling:
    """Logistic regression on a network's logit: a scale and a bias, by online gradient descent.

    Step sizes decay from ``rate`` towards ``least``: an unknown pair of models is learned in a few
    steps, and a known one is disturbed little.
    """

    def __init__(self, rate: float = 0.3, least: float = 0.01) -> None:
        self._rate, self._least = rate, least
        self._scale, self._bias, self._seen = 1.0, 0.0, 0

    def recall(self, state: Mapping[str, float]) -> None:
        """Start from the `state` of another text, clipped to its bounds and discounted."""
        self._scale = min(_MAX_SCALE, max(_MIN_SCALE, state["scale"]))
        self._bias = min(_MAX_BIAS, max(-_MAX_BIAS, state["bias"]))
        self._seen = int(max(0.0, state["seen"]))
        self.discount()

    def discount(self) -> None:
        """Move towards the network's own output, and raise the step size again."""
        self._scale, self._bias = 1 + KEPT * (self._scale - 1), KEPT * self._bias
        self._seen = min(_FORGOTTEN_TO, self._seen)

    @property
    def state(self) -> dict[str, float]:
        """``scale``, ``bias``, and the number of updates: ``seen``."""
        return {"scale": self._scale, "bias": self._bias, "seen": float(self._seen)}

    def probabilities(self, logits: Sequence[float]) -> list[float]:
        """The corrected probabilities, in (0, 1)."""
        bias, scale = self._bias, self._scale
        return [1.0 / (1.0 + exp(-bias - scale * x)) for x in logits]

    def update(self, logits: Sequence[float], happened: int) -> None:
        """One gradient step on ``logits``, of which only event number ``happened`` occurred.

        None occurred where ``happened`` is -1.
        """
        self._seen += 1
        errors = [p - (i == happened) for i, p in enumerate(self.probabilities(logits))]
        rate = max(self._least, self._rate / (1.0 + 0.25 * self._seen))
        gradient = sum(e * min(4.0, max(-4.0, x)) for e, x in zip(errors, logits, strict=True))
        self._bias = min(_MAX_BIAS, max(-_MAX_BIAS, self._bias - rate * sum(errors)))
        self._scale = min(_MAX_SCALE, max(_MIN_SCALE, self._scale - 0.1 * rate * gradient))

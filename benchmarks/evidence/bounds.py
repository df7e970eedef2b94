"""What confidence says of the draft's first choice: the published bound, and the one that holds.

Confidence is α = 1 - H / log k over the k largest draft probabilities, renormalised. Lemma 4.3 of
SAGE says p₁ >= 1/k + α(k-1)/k, which is false; p₁ >= exp(-H) = k^(α-1) holds, since the greatest
of any probabilities is at least exp of their negative entropy.
"""

from __future__ import annotations

import numpy as np

__all__ = ["confidence_needed", "confidence_published", "corrected", "lemma"]


def lemma(alpha: np.ndarray | float, k: int) -> np.ndarray:
    """Lemma 4.3's lower bound on the greatest of k probabilities, as published."""
    return 1 / k + np.asarray(alpha) * (k - 1) / k


def corrected(alpha: np.ndarray | float, k: int) -> np.ndarray:
    """The lower bound that holds: k^(α-1)."""
    return np.asarray(k ** (np.asarray(alpha, dtype=np.float64) - 1))


def confidence_published(first: float, k: int) -> float:
    """The confidence from which Lemma 4.3 promises a first choice of probability ``first``."""
    return (first - 1 / k) * k / (k - 1)


def confidence_needed(first: float, k: int) -> float:
    """The confidence from which the first choice surely has probability ``first``.

    Raises:
        ValueError: ``first`` is no probability above 1/k.
    """
    if not 1 / k <= first <= 1:
        raise ValueError(f"a first choice of k = {k} has a probability from 1/k to 1, not {first}")
    return 1 - float(np.log(1 / first) / np.log(k))

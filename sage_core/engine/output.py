"""What a finished decoding gives back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sage_core.engine.results import Stats
from sage_core.trees.steps import Step


@dataclass(frozen=True)
class DecodeOutput:
    """What `SpeculativeDecoder.generate` returns."""

    sequences: Tensor
    """(1, prompt + new tokens) int64, as `generate` returns them."""
    steps: tuple[Step, ...]
    stats: Stats
    finish_reason: str
    """``eos``, ``length`` or ``stop`` (any other stopping criterion)."""
    scores: tuple[Tensor, ...] | None = None
    """With ``output_scores``: (1, vocabulary) float32 processed scores of every new token."""
    logits: tuple[Tensor, ...] | None = None
    """With ``output_logits``: the same before processing."""
    lossy: str | None = None
    """The lossy rule by which drafts were accepted: the text need not be the target's own. None
    if it is."""

"""What is distilled, and how: the options of one training run. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from sage_core.errors import OptionError

__all__ = ["KINDS", "LOSSES", "DistillOptions"]

KINDS = ("head", "specvlm", "vispec", "model")
LOSSES = ("sage", "acceptance")

_RATE, _RATE_SIZE, _MOST_RATE = 8e-5, 3584, 3e-3


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """Options of a run; checks itself.

    Raises:
        OptionError: an unknown kind or loss, a number out of its range, or no end.
    """

    kind: str = "head"
    """``head``, ``specvlm``, ``vispec`` (`sage_core.drafts.head`), or ``model``: a small model of the
    target's own class."""
    steps: int | None = None
    minutes: float | None = None
    """The run ends after so many steps or minutes, whichever comes first."""
    mode: str = "weighted"
    """Of ``specvlm``: `HeadConfig.mode`."""
    ratio: float = 3.0
    queries: int = 2
    layers: int | None = None
    """Of ``model``: its layers; None for an eighth of the target's, at least 1."""
    hidden: int | None = None
    """Of ``model``: its hidden size; None for half the target's, or all of it where the vision
    tower's output has that size (the Qwen families), so that the tower can be shared."""
    lr: float | None = None
    """Learning rate; None for `rate_for` the target's hidden size."""
    decay: float = 0.0
    """The share of the run, at its end, over which the learning rate falls to nothing in a straight
    line."""
    batch: int = 8
    """Samples of one step, over all processes. They pass one by one and their gradients add up, so
    that memory does not depend on it."""
    loss: str = "sage"
    """``sage``: cross-entropy to the target's distribution; ``acceptance``: negative logarithm of
    the acceptance probability. Heads add the distance of features to either."""
    ce_weight: float = 0.1
    """Weight of that first part, for heads; a ``model`` has no other and takes it as 1."""
    feature_weight: float = 1.0
    depths: int = 3
    """Steps in a row that a head is trained on, the later ones on its own features."""
    temperature: float = 0.0
    """Of the answers that the target writes; 0 is greedy."""
    max_new_tokens: int = 256
    max_pixels: int | None = None
    seed: int = 0
    checkpoint_every: int = 100
    """Steps between checkpoints, each with a look at the held-out samples."""
    recompute: bool = False
    """Activation checkpointing: less memory, more time."""

    def __post_init__(self) -> None:
        least = {"batch": 1, "depths": 1, "max_new_tokens": 2, "checkpoint_every": 1, "seed": 0}
        least |= {"steps": 1, "layers": 1, "hidden": 1, "max_pixels": 1}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or value < lowest):
                raise OptionError(f"{name} must be a whole number of at least {lowest}: {value!r}")
        for name in ("ce_weight", "feature_weight", "temperature"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise OptionError(f"{name} must be a number of at least 0: {getattr(self, name)!r}")
        for name in ("lr", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise OptionError(f"{name} must be a positive number: {value!r}")
        if not 0 <= self.decay <= 1:
            raise OptionError(f"decay must be a share of the run, 0 to 1: {self.decay!r}")
        for name, known in (("kind", KINDS), ("loss", LOSSES)):
            if getattr(self, name) not in known:
                given = getattr(self, name)
                raise OptionError(f"{name} must be one of {', '.join(known)}, not {given!r}")
        if self.steps is None and self.minutes is None:
            raise OptionError("say when to end: give steps or minutes")
        if self.kind != "model" and not self.ce_weight and not self.feature_weight:
            raise OptionError("ce_weight and feature_weight are both 0: nothing would be learned")


def rate_for(hidden_size: int) -> float:
    """The learning rate for a target: 8e-5 at the 3,584 of a 7B, more for smaller ones.

    In inverse proportion to the hidden size, 3e-3 at most.
    """
    return min(_MOST_RATE, _RATE * _RATE_SIZE / hidden_size)

"""Options of a training run, each declared once: the command line makes its flags of these fields.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import inf
from typing import Any, Literal, get_args

from sage_core.errors import OptionError

Kind = Literal["head", "specvlm", "vispec", "model"]
Loss = Literal["sage", "acceptance"]
KINDS, LOSSES = get_args(Kind), get_args(Loss)

_RATE, _RATE_SIZE, _MAX_RATE = 8e-5, 3584, 3e-3


def _option(default: Any, help: str, **about: Any) -> Any:
    """A field with its help text and, in ``about``, ``least`` (its lower bound), ``metavar`` and
    ``shown`` (what stands for a default of None)."""
    return field(default=default, metadata={"help": help, **about})


def _whole(default: int | None, help: str, **about: Any) -> Any:
    return _option(default, help, **{"least": 1, "metavar": "N", **about})


def _number(default: float | None, help: str, **about: Any) -> Any:
    return _option(default, help, metavar="X", **about)


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """Options of a run. ``metadata["help"]`` of each field describes it.

    Raises:
        OptionError: an unknown kind or loss, a number out of its range, or no end of the run.
    """

    kind: Kind = _option(  # noqa: RUF009 - it returns a field
        "head",
        "head: one layer that reads the target's features; specvlm: the same with compressed "
        "visual tokens; vispec: the same with a few learned queries in place of each image; "
        "model: a small model of the target's class.",
        metavar="KIND",
    )
    steps: int | None = _whole(None, "Stop after N steps.")
    minutes: float | None = _option(None, "Stop after M minutes of training.", metavar="M")
    mode: str = _option(
        "weighted",
        "Compression of specvlm: weighted, concat, select, or a single branch: prune, pool, "
        "convolution, resampler, text.",
        metavar="MODE",
    )
    ratio: float = _number(
        3.0,
        "Visual tokens for each one that specvlm keeps, in mode weighted (at most 5) and of a "
        "single branch.",
        least=1,
    )
    queries: int = _whole(2, "Learned queries per image, of the resampler and of vispec.")
    layers: int | None = _whole(None, "Layers of a model.", shown="an eighth of the target's")
    hidden: int | None = _whole(
        None,
        "Hidden size of a model.",
        shown="half the target's; the same where the vision tower's output has that size",
    )
    lr: float | None = _number(
        None,
        "Learning rate.",
        shown="8e-5 at hidden size 3584, inversely proportional to it, at most 3e-3",
    )
    decay: float = _number(
        0.0,
        "Fraction of the run, at its end, over which the learning rate falls linearly to 0.",
        least=0,
        most=1,
    )
    batch: int = _whole(
        8,
        "Samples per step, over all processes. Gradients are accumulated sample by sample, so "
        "memory does not depend on it.",
    )
    loss: Loss = _option(  # noqa: RUF009
        "sage",
        "sage: cross-entropy to the target's distribution; acceptance: negative logarithm of the "
        "acceptance probability. Heads add a loss on features to either.",
        metavar="LOSS",
    )
    ce_weight: float = _number(0.1, "Weight of --loss, for heads.", least=0)
    feature_weight: float = _number(1.0, "Weight of the loss on features, for heads.", least=0)
    depths: int = _whole(
        3,
        "Consecutive draft steps that a head is trained on; from the second on it reads its own "
        "features.",
    )
    temperature: float = _number(
        0.0,
        "Sampling temperature of the answers that the target writes; 0 is greedy.",
        least=0,
    )
    max_new_tokens: int = _whole(256, "Longest answer in tokens.", least=2)
    recompute: bool = _option(False, "Activation checkpointing: less memory, more time.")
    checkpoint_every: int = _whole(
        100,
        "Steps between checkpoints. Each evaluates the held-out samples; the best draft is kept.",
    )
    max_pixels: int | None = _option(None, "Largest image or frame in pixels.", least=1)
    seed: int = _option(0, "Seed of everything random.", least=0)

    def __post_init__(self) -> None:
        for one in fields(self):
            value, least = getattr(self, one.name), one.metadata.get("least")
            if value is None or least is None:
                continue
            most = one.metadata.get("most", inf)
            if isinstance(value, bool) or not least <= value <= most or value == inf:
                to = "" if most == inf else f" and at most {most}"
                raise OptionError(f"{one.name} must be at least {least}{to}, not {value!r}")
        for name in ("lr", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise OptionError(f"{name} must be a positive number, not {value!r}")
        for name, known in (("kind", KINDS), ("loss", LOSSES)):
            if (value := getattr(self, name)) not in known:
                raise OptionError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        if self.steps is None and self.minutes is None:
            raise OptionError("nothing ends the run: give steps or minutes")
        if self.kind != "model" and not self.ce_weight and not self.feature_weight:
            raise OptionError("ce_weight and feature_weight are both 0: there is no loss")


def default_learning_rate(hidden_size: int) -> float:
    """The learning rate for a target: 8e-5 at the hidden size 3584 of a 7B model (SpecVLM),
    inversely proportional to the hidden size, at most 3e-3."""
    return min(_MAX_RATE, _RATE * _RATE_SIZE / hidden_size)

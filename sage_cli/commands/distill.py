"""``sage distill``: train a draft for a target."""

from __future__ import annotations

from typing import Any

from sage_cli.options.distill import DistillFlags, SharedFlags, TrainingFlags
from sage_cli.options.takes_options import takes_options

__all__ = ["distill"]


@takes_options(SharedFlags, "shared")
@takes_options(TrainingFlags, "training")
@takes_options(DistillFlags)
def distill(*, options: DistillFlags, training: Any = None, shared: Any = None) -> int:
    """Train a draft for a target, with the frozen target as teacher, and measure it."""
    from sage_cli.jobs.distill import run

    return int(run(options, training, shared))

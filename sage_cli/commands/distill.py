"""``sage distill``: train a draft for a target."""

from __future__ import annotations

from typing import Any

from sage_cli.options.distill import DistillFlags, SharedFlags
from sage_cli.options.takes_options import takes_options

__all__ = ["distill"]


@takes_options(SharedFlags, "shared")
@takes_options(DistillFlags)
def distill(*, options: DistillFlags, shared: Any = None) -> int:
    """Train a draft for a target, next to the frozen target itself, and measure it."""
    from sage_cli.jobs.distill import run

    return int(run(options, shared))

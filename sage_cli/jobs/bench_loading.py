"""The sampling parameters and the loaded pair of `sage bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_cli.console import Progress, with_progress
from sage_cli.options.shared import RunOptions

if TYPE_CHECKING:
    from sage_core.bench.engine import PairEngine
    from sage_core.pair_loading import LoadedPair

__all__ = ["load_engine", "sampling_asked"]


def sampling_asked(models: RunOptions) -> dict[str, Any] | None:
    """The sampling parameters by their names in `GenerationConfig`; None: greedy decoding."""
    from sage_core.options import Options

    asked = Options(**models.decoding()).sampling_params().generation_fields()
    return asked if asked.pop("do_sample", False) else None


def load_engine(models: RunOptions) -> PairEngine:
    """Load the pair, with progress on a terminal and one line on device and dtype."""

    def load(progress: Progress) -> LoadedPair:
        from sage_core.pair_loading import load_pair

        return load_pair(**models.loading(), progress=progress)

    pair = with_progress(load, quiet=models.quiet)
    from sage_core.bench.engine import PairEngine
    from sage_core.options import Options

    return PairEngine(pair, Options(**models.decoding()))

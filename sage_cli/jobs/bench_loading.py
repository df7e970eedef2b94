"""The sampling parameters and the loaded pair of `sage bench`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sage_cli.console import is_terminal, loading_progress, say
from sage_cli.options.shared import RunOptions

if TYPE_CHECKING:
    from sage_core.bench.engine import PairEngine
    from sage_core.generation.sampling_params import SamplingParams

__all__ = ["load_engine", "sampling_asked", "sampling_params"]


def sampling_params(models: RunOptions) -> SamplingParams:
    """The sampling parameters of a run."""
    from sage_core.generation.sampling_params import SamplingParams

    names = ("sample", "temperature", "top_p", "top_k", "min_p")
    return SamplingParams(**{name: getattr(models, name) for name in names})


def sampling_asked(models: RunOptions) -> dict[str, Any] | None:
    """The sampling parameters by their names in `GenerationConfig`; None: greedy decoding."""
    fields = sampling_params(models).generation_fields()
    return fields if fields.pop("do_sample", False) else None


def load_engine(models: RunOptions) -> PairEngine:
    """Load the pair, with progress on a terminal and one line on device and dtype."""
    with loading_progress(is_terminal(sys.stderr) and not models.quiet) as progress:
        progress("starting", 0.0)
        from sage_core.bench.engine import PairEngine
        from sage_core.options import Options
        from sage_core.pair_loading import load_pair

        generation: Mapping[str, Any] = {}
        if models.repetition_penalty is not None:
            generation = {"repetition_penalty": models.repetition_penalty}
        given = {
            "frames": models.frames,
            "fps": models.fps,
            "start": models.start,
            "end": models.end,
            "max_pixels": models.max_pixels,
            "draft_lookup": models.draft_lookup,
            "draft_vocab": models.draft_vocab,
            "lossy": models.lossy,
            "viskip": models.viskip,
            **asdict(sampling_params(models)),
            "draft_pruning": models.draft_pruning,
            "draft_pruning_method": models.draft_pruning_method,
            "max_new_tokens": models.max_new_tokens,
            "seed": models.seed,
            "generation": generation,
        }
        decoding = Options(**{k: v for k, v in given.items() if v is not None})
        pair = load_pair(
            models.model,
            None if models.draft == "none" else models.draft,
            models.device,
            models.dtype,
            progress,
            quantization=models.quantization,
            revision=models.revision,
            draft_revision=models.draft_revision,
            draft_device=models.draft_device,
            trust_remote_code=models.trust_remote_code,
        )
    if pair.note and not models.quiet:
        say(pair.note)
    return PairEngine(pair, decoding)

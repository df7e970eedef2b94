"""sage: captions and answers by speculative decoding on adaptive trees, exactly the target's own.

`load` gives a `Pipeline` over files; `SpeculativeDecoder` works on two loaded transformers models.
Names are imported when first used, so that ``import sage_core`` itself needs neither torch nor
transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_core.conversation import Conversation
    from sage_core.engine.decoder import SpeculativeDecoder
    from sage_core.engine.results import DecodeOutput, Stats
    from sage_core.errors import (
        InputError,
        MemoryExhaustedError,
        ModelError,
        OptionError,
        SageError,
        UnsupportedError,
    )
    from sage_core.generate import custom_generate
    from sage_core.media import Clip, MediaLimits, MediaWorker, Picture, Sampling, open_media
    from sage_core.options import Options
    from sage_core.pipeline import Pipeline, load
    from sage_core.stream import Result, Stream
    from sage_core.trees.steps import PhaseSeconds, Shape, Step
    from sage_core.trees.tree import TokenTree

__all__ = [
    "Clip",
    "Conversation",
    "DecodeOutput",
    "InputError",
    "MediaLimits",
    "MediaWorker",
    "MemoryExhaustedError",
    "ModelError",
    "OptionError",
    "Options",
    "PhaseSeconds",
    "Picture",
    "Pipeline",
    "Result",
    "SageError",
    "Sampling",
    "Shape",
    "SpeculativeDecoder",
    "Stats",
    "Step",
    "Stream",
    "TokenTree",
    "UnsupportedError",
    "custom_generate",
    "load",
    "open_media",
]

__version__ = "0.1.0"

_HOMES = {
    "sage_core.conversation": ("Conversation",),
    "sage_core.errors": (
        "InputError",
        "MemoryExhaustedError",
        "ModelError",
        "OptionError",
        "SageError",
        "UnsupportedError",
    ),
    "sage_core.generate": ("custom_generate",),
    "sage_core.media": (
        "Clip",
        "MediaLimits",
        "MediaWorker",
        "Picture",
        "Sampling",
        "open_media",
    ),
    "sage_core.options": ("Options",),
    "sage_core.pipeline": ("Pipeline", "load"),
    "sage_core.stream": ("Result", "Stream"),
    "sage_core.engine.decoder": ("SpeculativeDecoder",),
    "sage_core.engine.results": ("DecodeOutput", "Stats"),
    "sage_core.trees.steps": ("PhaseSeconds", "Shape", "Step"),
    "sage_core.trees.tree": ("TokenTree",),
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

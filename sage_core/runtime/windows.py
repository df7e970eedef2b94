"""Which slots each kind of layer attends to: all, a sliding window, or a chunk.

Whether a model's layers are what its configuration says is tried by `engine.trial`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

__all__ = ["LayerKinds", "Window"]

_FIELDS = MappingProxyType(
    {
        "sliding_attention": ("sliding_window", False),
        "chunked_attention": ("attention_chunk_size", True),
    }
)
"""Of a configuration, by layer type: where the length is, and whether it is one of chunks."""
STATES = frozenset({"linear_attention", "conv"})
"""Layer types that hold a state instead of keys and values (`runtime.recurrent`)."""


@dataclass(frozen=True)
class Window:
    """A limit of attention, in slots: the last ``tokens`` of them, or the chunk of so many."""

    tokens: int
    chunks: bool = False

    def first(self, committed: int) -> int:
        """The first slot that any token after ``committed`` slots attends to."""
        if self.chunks:
            return committed // self.tokens * self.tokens
        return max(0, committed + 1 - self.tokens)

    def sees(self, query: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Bool: whether a token in slot ``query`` attends to an earlier one in slot ``key``."""
        if self.chunks:
            return np.asarray(query // self.tokens == key // self.tokens)
        return np.asarray(query - key < self.tokens)


@dataclass(frozen=True)
class LayerKinds:
    """The kinds of a decoder's layers."""

    windows: Mapping[str, Window | None]
    """By kind, as the decoder takes a mask for each; one kind of no name if it takes one mask."""
    layers: tuple[str, ...]
    """The kind of each layer."""

    @classmethod
    def of(cls, config: Any) -> LayerKinds:
        """The kinds in a decoder's configuration."""
        count = int(config.num_hidden_layers)
        types = getattr(config, "layer_types", None)
        if types is None:
            only = _length(config, "sliding_window")
            if getattr(config, "use_sliding_window", True) is False:
                only = None
            return cls({"": None if only is None else Window(only)}, ("",) * count)
        windows: dict[str, Window | None] = {}
        for kind in types:
            field, chunks = _FIELDS.get(kind, ("", False))
            tokens = _length(config, field) if field else None
            windows[kind] = None if tokens is None else Window(tokens, chunks)
        if not any(windows.values()) and not STATES & windows.keys():
            return cls({"": None}, ("",) * count)
        return cls(windows, tuple(types))

    @property
    def limited(self) -> bool:
        """Whether a layer does not attend to all slots."""
        return any(self.windows.values())

    @staticmethod
    def holding_states(config: Any) -> frozenset[str]:
        """The kinds in a decoder's configuration that hold a state."""
        return STATES & set(getattr(config, "layer_types", None) or ())

    @property
    def states(self) -> tuple[int, ...]:
        """The layers that hold a state."""
        return tuple(i for i, kind in enumerate(self.layers) if kind in STATES)

    @property
    def attending_layers(self) -> tuple[int, ...]:
        """The layers that hold keys and values."""
        return tuple(i for i, kind in enumerate(self.layers) if kind not in STATES)

    @property
    def attending(self) -> Mapping[str, Window | None]:
        """`windows` without the kinds that hold a state, which take no mask."""
        return {kind: one for kind, one in self.windows.items() if kind not in STATES}


def _length(config: Any, field: str) -> int | None:
    value = getattr(config, field, None)
    return value if isinstance(value, int) and value > 0 else None

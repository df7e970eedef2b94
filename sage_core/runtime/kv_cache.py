"""The key/value cache: written once into a preallocated buffer, compacted in place.

A transformers `Cache` whose layers are views of one buffer each for keys and values. A pass
appends at the fill mark; `keep` then moves the accepted slots behind the committed ones and moves
the mark back. A step costs O(tree) memory traffic, whatever the context length.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from sage_core.runtime.recurrent import RecurrentLayer, StateFunctions
from sage_core.runtime.tree_columns import TreeColumns


class TreeCacheLayer(CacheLayerMixin):
    """One layer's keys and values, (batch, heads, capacity, head size), filled up to ``length``."""

    is_sliding = False
    is_compileable = False

    def __init__(self, owner: TreeCache, index: int) -> None:
        super().__init__()
        # Weak: a cycle would keep the buffers of finished texts until garbage is collected.
        self._owner = weakref.proxy(owner)
        self.index = index
        self.length = 0
        self.first = 0
        """The first slot that passes attend to; earlier ones are kept."""
        self.keys: Any
        self.values: Any

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = self._owner.allocate(self.index, key_states, value_states)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (batch, heads, n, head size); returns views of filled slots from `first` on."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        if end > self.keys.shape[-2]:
            self._owner.grow(end)
        self.keys[..., self.length : end, :] = key_states
        self.values[..., self.length : end, :] = value_states
        self.length = end
        return self.keys[..., self.first : end, :], self.values[..., self.first : end, :]

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        # Older versions of transformers pass the queries' positions instead of their number.
        n = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self.length + n, 0

    def get_seq_length(self, *args: Any) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length


class TreeCache(Cache):
    """A cache of ``layers`` layers with room for ``capacity`` slots; it grows by copying.

    With ``shared`` all layers are slices of one buffer of shape (layers, batch, heads, capacity,
    head size), so that compaction is two copies in all. Models whose layers differ in shape or are
    on several devices need ``shared=False``.
    """

    layer_class = TreeCacheLayer

    def __init__(self, layers: int, capacity: int, *, shared: bool = True) -> None:
        self._capacity = capacity
        self._shared = shared
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}  # by layer; one at 0 if shared
        self._layers = [self.layer_class(self, index) for index in range(layers)]
        self.states: list[RecurrentLayer] = []
        """The layers that hold a state instead of keys and values."""
        self.functions: StateFunctions | None = None
        super().__init__(layers=list(self._layers))

    def hold_states(self, indices: Sequence[int], functions: StateFunctions | None) -> None:
        """Let the layers at ``indices`` hold a state instead; before the first use, not shared."""
        self.functions = functions
        self.states = [RecurrentLayer() for _ in indices]
        for index, layer in zip(indices, self.states, strict=True):
            self.layers[index] = layer
        self._layers = [layer for layer in self._layers if layer in self.layers]

    def begin(self, committed: int) -> None:
        """The prompt of ``committed`` slots has been read."""
        for layer in self.states:
            layer.begin(committed)

    def follow(self, columns: TreeColumns) -> None:
        """The next pass is over these tree columns."""
        for layer in self.states:
            layer.columns, layer.record_past = columns, True  # or one token takes another way

    def exchanged(self) -> AbstractContextManager[None]:
        """Open during a pass over a tree."""
        return nullcontext() if self.functions is None else self.functions.exchanged()

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Any:
        layer: Any = self.layers[layer_idx]
        tree = layer.tree_state() if isinstance(layer, RecurrentLayer) else None
        return super().get_recurrent_state(layer_idx, state_idx) if tree is None else tree

    def restorable(self, slot: int) -> int:
        """The last slot up to ``slot`` that `keep` can cut the text back to; 0 if there is none."""
        return self.states[0].restorable(slot) if self.states else slot

    @property
    def length(self) -> int:
        """Filled slots, the same in all layers between passes."""
        return self._layers[0].length

    def allocate(self, index: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Storage for layer ``index``; called by the layer at its first write."""
        # Layers may be written in any order.
        home, row = (0, index) if self._shared else (index, 0)
        if home in self._buffers:
            return self._buffers[home][0][row], self._buffers[home][1][row]
        count = len(self._layers) if self._shared else 1
        capacity = max(self._capacity, keys.shape[-2])

        def room(states: Tensor) -> Tensor:
            batch, heads, _, size = states.shape
            return states.new_empty((count, batch, heads, capacity, size))

        self._buffers[home] = (room(keys), room(values))
        return self._buffers[home][0][row], self._buffers[home][1][row]

    def grow(self, needed: int) -> None:
        """Move to buffers with room for 1.5 times ``needed`` slots."""
        self._capacity = needed + needed // 2

        def larger(buffer: Tensor) -> Tensor:
            shape = list(buffer.shape)
            shape[-2] = self._capacity
            room = buffer.new_empty(shape)
            room[..., : buffer.shape[-2], :] = buffer
            return room

        self._buffers = {home: (larger(k), larger(v)) for home, (k, v) in self._buffers.items()}
        for layer in self._layers:
            index = layer.index
            if layer.is_initialized:
                keys, values = self._buffers[0 if self._shared else index]
                layer.keys = keys[index if self._shared else 0]
                layer.values = values[index if self._shared else 0]

    def keep(self, committed: int, slots: Sequence[int]) -> None:
        """Keep the first ``committed`` slots and move ``slots`` to follow them, in that order.

        ``slots`` are absolute, ascending and not below ``committed``; all others are dropped.
        """
        end = committed + len(slots)
        first = next((i for i, slot in enumerate(slots) if slot != committed + i), len(slots))
        if first < len(slots):
            for keys, values in self._buffers.values():
                index = torch.tensor(slots[first:], device=keys.device)
                for buffer in (keys, values):
                    buffer[..., committed + first : end, :] = buffer.index_select(-2, index)
        for layer in self._layers:
            layer.length = end
        for state in self.states:
            state.keep(committed, [slot - committed for slot in slots])

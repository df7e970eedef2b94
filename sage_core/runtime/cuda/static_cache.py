"""A key/value cache for captured passes, written at slots that are device tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from sage_core.runtime.kv_cache import TreeCache, TreeCacheLayer


class StaticLayer(TreeCacheLayer):
    """A layer that appends, or writes at the owner's ``slots`` in static passes."""

    _owner: StaticCache

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """As the base class; static passes return the whole buffer and leave the length."""
        slots = self._owner.slots
        if slots is None:
            return super().update(key_states, value_states)
        self.keys.index_copy_(2, slots, key_states)
        self.values.index_copy_(2, slots, value_states)
        return self.keys, self.values


class StaticCache(TreeCache):
    """A `TreeCache` whose storage keeps its address between texts.

    A static pass writes at slots read from the device, and `advance` moves the fill marks
    afterwards. New buffers are zeroed: PyTorch's attention reads masked slots, with weight 0.
    """

    layer_class = StaticLayer

    def __init__(self, layers: int, capacity: int) -> None:
        super().__init__(layers, capacity, shared=True)
        self.slots: Tensor | None = None
        """int64 (n,): where a static pass writes; None outside of one."""

    @property
    def capacity(self) -> int:
        """Slots of the storage, allocated or not."""
        return int(self._buffers[0][0].shape[-2]) if self._buffers else self._capacity

    @property
    def storage(self) -> Tensor | None:
        """The keys of all layers; replaced when the cache grows."""
        return self._buffers[0][0] if self._buffers else None

    def allocate(self, index: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        room = super().allocate(index, keys, values)
        for buffer in room:
            buffer.zero_()
        return room

    def grow(self, needed: int) -> None:
        held = self.capacity
        super().grow(needed)
        for buffer in self._buffers[0]:
            buffer[..., held:, :].zero_()

    def restart(self, capacity: int) -> None:
        """Empty the cache; storage below ``capacity`` slots is replaced."""
        for layer in self._layers:
            layer.length = 0
        if capacity > self.capacity:
            self._capacity, self._buffers = capacity, {}
            for layer in self._layers:
                layer.is_initialized = False

    def advance(self, count: int) -> None:
        """Move the fill marks by the ``count`` slots of a static pass."""
        for layer in self._layers:
            layer.length += count

    @contextmanager
    def writing(self, slots: Tensor) -> Iterator[None]:
        """While open, passes write at ``slots``, int64 (n,) on the device."""
        self.slots = slots
        try:
            yield
        finally:
            self.slots = None

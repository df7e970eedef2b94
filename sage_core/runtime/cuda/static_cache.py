"""A key/value cache for captured passes: written at slots that the device knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from sage_core.runtime.kv_cache import TreeCache, TreeCacheLayer


class StaticLayer(TreeCacheLayer):
    """A layer whose passes either go on at the fill mark or write at the owner's ``slots``."""

    _owner: StaticCache

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """In a static pass the whole buffer is given, filled or not, and no fill mark moves."""
        slots = self._owner.slots
        if slots is None:
            return super().update(key_states, value_states)
        self.keys.index_copy_(2, slots, key_states)
        self.values.index_copy_(2, slots, value_states)
        return self.keys, self.values


class StaticCache(TreeCache):
    """A `TreeCache` whose storage stays where it is from text to text.

    A static pass has nothing of the host's in it: it writes at slots read from the device, and
    `advance` moves the fill marks afterwards. All of a new buffer is zero, because a masked slot
    still takes part in PyTorch's own attention, at weight zero.
    """

    layer_class = StaticLayer

    def __init__(self, layers: int, capacity: int) -> None:
        super().__init__(layers, capacity, shared=True)
        self.slots: Tensor | None = None
        """int64 (n,): where the pass under way writes; None outside a static pass."""

    @property
    def capacity(self) -> int:
        """Slots of the storage, or of what it will be."""
        return int(self._buffers[0][0].shape[-2]) if self._buffers else self._capacity

    @property
    def storage(self) -> Tensor | None:
        """The keys of all layers; another tensor once the cache has grown."""
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
        """Forget everything and have room for ``capacity`` slots, in the same storage if it can."""
        for layer in self._layers:
            layer.length = 0
        if capacity > self.capacity:
            self._capacity, self._buffers = capacity, []
            for layer in self._layers:
                layer.is_initialized = False

    def advance(self, count: int) -> None:
        """Note that a static pass has filled ``count`` more slots."""
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

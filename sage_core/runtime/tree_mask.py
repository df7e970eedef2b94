"""The additive attention mask of tree passes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sage_core.runtime.windows import Window


class TreeMaskBuffer:
    """Masks of one text's tree passes, as views of a buffer.

    The committed part stays zero: a pass over n tokens writes O(n²), and a pass over the only node
    of a path writes nothing.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._mask = torch.zeros((0, 0), device=device)
        self._open = torch.zeros((1, 1, 1, 0), device=device)
        self._device, self._dtype = device, dtype
        self._clean = 0
        """All columns before this one are zero."""

    def additive(self, visible: np.ndarray, committed: int) -> Tensor:
        """(1, 1, n, committed + columns): 0 where attended to, else the dtype's minimum.

        Args:
            visible: bool (n, columns), the tree columns that each token attends to.
            committed: slots before them, which all tokens attend to.
        """
        n, columns = visible.shape
        end = committed + columns
        if n == 1 and visible.all():  # the only node of a level, on the only path so far
            if self._open.shape[-1] < end:
                room = (1, 1, 1, end + 512)
                self._open = torch.zeros(room, dtype=self._dtype, device=self._device)
            return self._open[..., :end]
        if self._mask.shape[0] < n or self._mask.shape[1] < end:
            shape = (max(n, self._mask.shape[0]), max(end + 512, self._mask.shape[1]))
            self._mask = torch.zeros(shape, dtype=self._dtype, device=self._device)
            self._clean = committed
        least = torch.finfo(self._dtype).min
        # Clear the columns of earlier trees that are committed text now.
        self._mask[:, min(self._clean, committed) : committed] = 0
        self._clean = committed
        tree = np.where(visible, 0.0, least).astype(np.float32)
        self._mask[:n, committed:end] = torch.from_numpy(tree).to(self._device, self._dtype)
        return self._mask[None, None, :n, :end]

    def windowed(
        self, visible: np.ndarray, committed: int, depths: np.ndarray, window: Window
    ) -> Tensor:
        """(1, 1, n, slots + columns): `additive` for layers with a window, from its first slot on.

        Args:
            visible: as for `additive`.
            committed: as for `additive`.
            depths: int (columns,), distances of the columns from the first slot behind the text.
            window: of the layers.
        """
        n, columns = visible.shape
        first = window.first(committed)
        keys = np.concatenate([np.arange(first, committed), committed + depths])
        seen = window.sees(committed + depths[-n:, None], keys[None])
        if first == 0 and seen[:, :committed].all() and (seen[:, committed:] | ~visible).all():
            return self.additive(visible, committed)
        seen[:, -columns:] &= visible
        least = torch.finfo(self._dtype).min
        mask = torch.from_numpy(np.where(seen, np.float32(0), np.float32(least)))
        return mask.to(self._device, self._dtype)[None, None]

"""Tree attention masks as one 64-bit word per node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MAX_COLUMNS = 64
"""Bits of a word: most tree columns besides those that all nodes attend to, such as the root's."""


@dataclass(frozen=True, eq=False)
class TreeMask:
    """What the nodes of one pass attend to: the committed text, and tree columns by their bits.

    Both tensors may be static inputs of a captured pass: the host never reads them.

    Raises:
        ValueError: a tensor of another shape or dtype.
    """

    words: Tensor
    """int64 (n,): bit c of word i is set if node i attends to tree column c, slot committed + c."""
    committed: Tensor
    """int64 (1,): the first slots, which all nodes attend to."""

    def __post_init__(self) -> None:
        if self.words.dim() != 1 or self.words.dtype != torch.int64:
            raise ValueError("a tree mask takes int64 words, one per node")
        if self.committed.shape != (1,) or self.committed.dtype != torch.int64:
            raise ValueError("a tree mask takes the committed length as int64 of shape (1,)")


def pack(visible: np.ndarray) -> np.ndarray:
    """int64 words (n,) from bool (n, columns), columns <= 64.

    Raises:
        ValueError: more columns than a word has bits.
    """
    rows, columns = visible.shape
    if columns > MAX_COLUMNS:
        raise ValueError(f"{columns} tree columns do not fit a word of {MAX_COLUMNS} bits")
    padded = np.zeros((rows, MAX_COLUMNS), dtype=bool)
    padded[:, :columns] = visible
    return np.packbits(padded, axis=1, bitorder="little").view("<i8")[:, 0].astype(np.int64)


def additive(mask: TreeMask, slots: int, dtype: torch.dtype) -> Tensor:
    """The same as an additive mask (1, 1, n, slots), for PyTorch's own attention.

    0 where attended to, else the dtype's minimum. Computed on the device, so that it may be part of
    a captured pass; slots after the tree are masked.
    """
    column = torch.arange(slots, device=mask.words.device) - mask.committed
    bit = (mask.words[:, None] >> column.clamp(0, MAX_COLUMNS - 1)) & 1
    seen = (column < 0) | ((bit == 1) & (column < MAX_COLUMNS))
    hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=seen.device)
    return torch.where(seen, torch.zeros_like(hidden), hidden)[None, None]

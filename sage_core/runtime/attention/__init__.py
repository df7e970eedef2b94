"""Attention of a token tree over a long text: a kernel, its plain reference, and the way there."""

from sage_core.runtime.attention.bit_mask import MAX_COLUMNS, TreeMask, additive, pack
from sage_core.runtime.attention.tree_attention import TREE_ATTENTION, attending, why_not

__all__ = [
    "MAX_COLUMNS",
    "TREE_ATTENTION",
    "TreeMask",
    "additive",
    "attending",
    "pack",
    "why_not",
]

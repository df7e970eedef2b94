"""Attention of a token tree over a long text.

What belongs here: the tree's ancestors as bit masks, a Triton kernel, its entry in transformers'
`AttentionInterface`, and observing attention. What does not: the additive mask of eager passes.
"""

from sage_core.runtime.attention.bit_mask import MAX_COLUMNS, TreeMask, additive, pack
from sage_core.runtime.attention.tree_attention import TREE_ATTENTION, attending, why_not

__all__ = ["MAX_COLUMNS", "TREE_ATTENTION", "TreeMask", "additive", "attending", "pack", "why_not"]

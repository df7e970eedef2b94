"""Tree attention in plain PyTorch, for tests of the kernel: slow, and easy to see to be right."""

from __future__ import annotations

import torch
from torch import Tensor

from sage_core.runtime.attention.bit_mask import TreeMask


def tree_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: TreeMask, scale: float
) -> Tensor:
    """Softmax attention of n nodes over the committed text and the tree columns that they see.

    Args:
        query: (1, heads, n, size).
        key: (1, key heads, slots, size); query head h reads key head h // (heads / key heads).
        value: as ``key``.
        mask: who sees what; slots that no node sees may hold anything.
        scale: of the products before the softmax.

    Returns:
        (1, n, heads, size) in the query's dtype, computed in float32.
    """
    heads, kv_heads, slots = query.shape[1], key.shape[1], key.shape[2]
    group = heads // kv_heads
    keys = key[0].float().repeat_interleave(group, dim=0)
    values = value[0].float().repeat_interleave(group, dim=0)
    committed = int(mask.committed)
    seen = torch.zeros(len(mask.words), slots, dtype=torch.bool, device=query.device)
    seen[:, :committed] = True
    for node, word in enumerate(mask.words.tolist()):
        for column in range(min(64, slots - committed)):
            seen[node, committed + column] = (word >> column) & 1 == 1
    scores = query[0].float() @ keys.transpose(1, 2) * scale
    weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
    # A slot without weight adds nothing, whatever its memory holds.
    used = seen.any(dim=0)
    out = weights[:, :, used] @ values[:, used]
    return out.transpose(0, 1)[None].to(query.dtype)

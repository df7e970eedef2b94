"""Tree attention as two Triton kernels, as in flash-decoding: parts of the text, then their merge.

A verification pass has few query rows (nodes x the query heads of a key head) and a long text. One
program takes one key head, a block of query rows and a part of the text, and writes an unnormalized
sum with its maximum and weight; one more part is the tree, masked by the nodes' bit words. The
second kernel merges the parts. Query heads that share a key head are rows of one product, so keys
and values are not repeated. The committed length is read on the device: the cost depends on the
text, not on the buffer, and a captured graph serves every length.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sage_core.runtime.attention.bit_mask import MAX_COLUMNS, TreeMask

MAX_SPLITS = 32
LOG2_E = 1.4426950408889634


def tree_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: TreeMask, scale: float, splits: int = 0
) -> Tensor:
    """Attention of a tree's nodes to the committed text and, by their bit words, to the tree.

    Sums are float32; products are in the tensors' dtype, float32 without TF32.

    Args:
        query: (1, heads, nodes, size).
        key: (1, key heads, slots, size), with rotary positions applied; ``value`` likewise.
        mask: what each node attends to.
        scale: of the scores.
        splits: parts of the text; 0: by device.

    Returns:
        (1, nodes, heads, size), in the dtype of ``query``.
    """
    _, heads, nodes, size = query.shape
    kv_heads = key.shape[1]
    rows = heads // kv_heads * nodes
    # float32 products use no tensor cores and are unrolled, so their blocks are small.
    most = 32 if query.dtype == torch.float32 else 64
    block_rows = min(most, max(16, triton.next_power_of_2(rows)))
    blocks = triton.cdiv(rows, block_rows)
    splits = splits or _splits(query.device, kv_heads * blocks)
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    parts = splits + 1
    sums = query.new_empty((parts, nodes, heads, size), dtype=torch.float32)
    tops = query.new_empty((parts, nodes, heads), dtype=torch.float32)
    totals = torch.empty_like(tops)
    block_size = max(16, triton.next_power_of_2(size))
    _parts_kernel[(kv_heads * blocks, parts)](
        query, key, value, mask.words, mask.committed, sums, tops, totals,
        scale * LOG2_E, heads, kv_heads, nodes, size,
        *query.stride()[1:3], *key.stride()[1:3], *value.stride()[1:3], key.shape[2],
        BLOCK_ROWS=block_rows, BLOCK_KEYS=most, BLOCK_SIZE=block_size, COLUMNS=MAX_COLUMNS,
        # Triton's interpreter multiplies bfloat16 as if its bits were integers.
        WIDEN=query.device.type == "cpu", num_warps=4, num_stages=2,
    )  # fmt: skip
    out = query.new_empty((1, nodes, heads, size))
    # One row per program occupies a GPU; in the interpreter each program is expensive.
    merge_rows = 1 if query.device.type == "cuda" else 64
    _merge_kernel[(triton.cdiv(nodes * heads, merge_rows),)](
        sums, tops, totals, out, nodes * heads, size, parts,
        BLOCK_PARTS=triton.next_power_of_2(parts), BLOCK_ROWS=merge_rows, BLOCK_SIZE=block_size,
    )  # fmt: skip
    return out


def _splits(device: torch.device, programs: int) -> int:
    """Parts of the text for about two programs per multiprocessor, whatever its length."""
    if device.type != "cuda":
        return 4
    wanted = 2 * torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(MAX_SPLITS, wanted // programs))


@triton.jit
def _attend(q, k_tile, v_tile, seen, scale, top, total, sums, WIDEN: tl.constexpr):
    """One block of an online softmax: rows ``q`` over keys where ``seen`` (rows, keys)."""
    if WIDEN:
        q, k_tile = q.to(tl.float32), k_tile.to(tl.float32)
    scores = tl.dot(q, k_tile, input_precision="ieee") * scale
    scores = tl.where(seen, scores, -float("inf"))
    new_top = tl.maximum(top, tl.max(scores, axis=1))
    # A fully masked row must not subtract infinity from infinity.
    base = tl.where(new_top == -float("inf"), 0.0, new_top)
    weights = tl.exp2(scores - base[:, None])
    fade = tl.exp2(top - base)
    total = total * fade + tl.sum(weights, axis=1)
    sums = sums * fade[:, None]
    weights = weights.to(v_tile.dtype)
    if WIDEN:
        weights, v_tile = weights.to(tl.float32), v_tile.to(tl.float32)
    sums += tl.dot(weights, v_tile, input_precision="ieee")
    return new_top, total, sums


# Specialized by sizes and strides only, which determine memory access.
@triton.jit(
    do_not_specialize=["heads", "kv_heads", "nodes", "slots"],
    do_not_specialize_on_alignment=["words", "committed"],
)
def _parts_kernel(
    query, key, value, words, committed, sums_out, tops_out, totals_out,
    scale, heads, kv_heads, nodes, size,
    query_head, query_node, key_head, key_slot, value_head, value_slot, slots,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    COLUMNS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Part ``program_id(1)`` of the text, or the tree if it is the last, for a block of rows."""
    kv_head = tl.program_id(0) % kv_heads
    block = tl.program_id(0) // kv_heads
    part = tl.program_id(1)
    splits = tl.num_programs(1) - 1
    group = heads // kv_heads

    row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    live = row < group * nodes
    node = row % nodes
    head = kv_head * group + row // nodes
    dim = tl.arange(0, BLOCK_SIZE)
    inside = dim < size
    q = tl.load(
        query + head[:, None] * query_head + node[:, None] * query_node + dim[None, :],
        mask=live[:, None] & inside[None, :],
        other=0.0,
    )
    keys = key + kv_head.to(tl.int64) * key_head
    values = value + kv_head.to(tl.int64) * value_head

    top = tl.full((BLOCK_ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_SIZE), tl.float32)

    length = tl.load(committed)
    share = tl.cdiv(tl.cdiv(length, splits), BLOCK_KEYS) * BLOCK_KEYS
    first = tl.minimum(part * share, length)
    last = tl.minimum(first + share, length)
    if part == splits:  # the tree: no text, only the columns after it
        last = first
    for start in range(first, last, BLOCK_KEYS):
        slot = start + tl.arange(0, BLOCK_KEYS)
        there = slot < last
        k_tile = tl.load(
            keys + slot[None, :] * key_slot + dim[:, None],
            mask=there[None, :] & inside[:, None],
            other=0.0,
        )
        v_tile = tl.load(
            values + slot[:, None] * value_slot + dim[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        )
        seen = there[None, :] & live[:, None]
        top, total, sums = _attend(q, k_tile, v_tile, seen, scale, top, total, sums, WIDEN)
    word = tl.load(words + node, mask=live, other=0)
    columns = tl.where(part == splits, COLUMNS, 0)
    for start in range(0, columns, BLOCK_KEYS):
        column = start + tl.arange(0, BLOCK_KEYS)
        slot = length + column
        seen = ((word[:, None] >> column[None, :].to(tl.int64)) & 1) != 0
        # Memory after the tree is uninitialized: it must not be loaded, even at weight zero.
        there = (slot < slots) & (tl.max(seen.to(tl.int32), axis=0) > 0)
        k_tile = tl.load(
            keys + slot[None, :] * key_slot + dim[:, None],
            mask=there[None, :] & inside[:, None],
            other=0.0,
        )
        v_tile = tl.load(
            values + slot[:, None] * value_slot + dim[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        )
        top, total, sums = _attend(q, k_tile, v_tile, seen, scale, top, total, sums, WIDEN)

    out = (part * nodes + node) * heads + head
    tl.store(tops_out + out, top, mask=live)
    tl.store(totals_out + out, total, mask=live)
    tl.store(
        sums_out + out[:, None].to(tl.int64) * size + dim[None, :],
        sums,
        mask=live[:, None] & inside[None, :],
    )


@triton.jit(do_not_specialize=["rows", "parts"])
def _merge_kernel(
    sums, tops, totals, out, rows, size, parts,
    BLOCK_PARTS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Some rows, each a node and head: the weighted sum of its parts, rescaled to one maximum."""
    part = tl.arange(0, BLOCK_PARTS)[:, None]
    row = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS))[None, :]
    dim = tl.arange(0, BLOCK_SIZE)[None, None, :]
    there = (part < parts) & (row < rows)
    at = part * rows + row
    top = tl.load(tops + at, mask=there, other=-float("inf"))
    best = tl.max(top, axis=0)[None, :]
    fade = tl.exp2(top - tl.where(best == -float("inf"), 0.0, best))
    total = tl.sum(fade * tl.load(totals + at, mask=there, other=0.0), axis=0)[None, :]
    total = tl.where(total == 0.0, 1.0, total)
    tile = tl.load(
        sums + at[:, :, None].to(tl.int64) * size + dim,
        mask=there[:, :, None] & (dim < size),
        other=0.0,
    )
    merged = tl.sum(tile * (fade / total)[:, :, None], axis=0)[None, :, :]
    tl.store(
        out + row[:, :, None] * size + dim,
        merged.to(out.dtype.element_ty),
        mask=(row < rows)[:, :, None] & (dim < size),
    )

"""The tree attention kernel in transformers' attention interface, for one pass.

The `TreeMask` is passed as the keyword argument `TREE_ARGUMENT`, which decoders hand down to their
attention function. Its words are also passed as the attention mask, (1, 1, n, 1): transformers uses
a mask of four dimensions as it is and builds none of its own, of nodes x context values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sage_core.errors import UnsupportedError
from sage_core.runtime.attention.bit_mask import TreeMask
from sage_core.runtime.attention.swap import attending_by

TREE_ATTENTION = "sage_tree"
"""The name in transformers' `AttentionInterface`."""
TREE_ARGUMENT = "sage_tree_mask"


def why_not(device: torch.device) -> str:
    """Why the kernel cannot run on ``device``, as a message; empty if it can."""
    if find_spec("triton") is None:
        return "Triton is not installed: pip install 'sage-vlm[triton]'"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return "" if major >= 8 else f"a GPU of compute capability {major}.{minor}, below 8.0"
    if device.type == "cpu" and _interpreted():
        return ""
    return f"no Triton kernels on {device.type}"


@contextmanager
def attending(config: Any, mask: TreeMask) -> Iterator[dict[str, Any]]:
    """While open, a decoder with ``config`` uses the kernel; yields its further arguments."""
    with attending_by(config, TREE_ATTENTION, tree_attention_forward):
        yield {"attention_mask": mask.words[None, None, :, None], TREE_ARGUMENT: mask}


def tree_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function of each layer: (1, n, heads, size), and no weights.

    A call without a `TreeMask`, such as a prefill, uses PyTorch's own attention.

    Raises:
        UnsupportedError: the model's decoder does not hand keyword arguments to its layers.
    """
    mask = kwargs.pop(TREE_ARGUMENT, None)
    if mask is None:
        if attention_mask is not None and attention_mask.dtype == torch.int64:
            raise UnsupportedError(
                f"{type(module).__name__} is given no tree: its decoder drops keyword arguments;"
                " use PyTorch's own attention"
            )
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    from sage_core.runtime.attention.triton_kernel import tree_attention

    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return tree_attention(query, key, value, mask, scale), None


def _interpreted() -> bool:
    """Whether Triton runs kernels on the CPU in this process (``TRITON_INTERPRET=1``)."""
    import triton

    return bool(triton.knobs.runtime.interpret)

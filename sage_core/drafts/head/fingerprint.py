"""A fingerprint of the target that a head was trained for."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from sage_core.models.parts import decoder_of

_FIELDS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "num_experts",
)
_ROWS = 16


@torch.no_grad()
def fingerprint(target: Any) -> str:
    """A hash of the decoder's shape and of 16 rows spread over the output head, if it has values.

    The rows are rounded to bfloat16, so that a checkpoint has the same fingerprint in any dtype.
    """
    config = decoder_of(target).config
    shape = {name: getattr(config, name, None) for name in _FIELDS}
    weight = target.get_output_embeddings().weight
    # Quantized output heads are packed: they have the fingerprint of their shape.
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    if weight.is_floating_point() and not weight.is_meta:
        spread = torch.linspace(0, weight.shape[0] - 1, _ROWS).round().long()
        rows = weight[spread.to(weight.device)].to("cpu", torch.bfloat16).float()
        digest.update(rows.numpy().tobytes())
    return digest.hexdigest()[:32]

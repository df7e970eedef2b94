"""A probe with one small tree: refuses models that tree passes cannot decode exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from sage_core.errors import ModelError, SageError
from sage_core.generation.prepare import prepare
from sage_core.media.types import Picture
from sage_core.models.families.base import Family
from sage_core.models.families.generic import TEXT_INPUTS, TOKEN_TYPES
from sage_core.models.inputs import cast, on_device
from sage_core.models.quiet import quiet
from sage_core.runtime.runner import Runner


def check_tree_pass(model: Any, family: Family) -> None:
    """Refuse a model whose forward and a tree pass through its decoder disagree.

    Raises:
        ModelError: they disagree, or a pass fails.
    """
    unsupported = f"{family.config.model_type} models are not supported"
    try:
        with quiet():
            agree = tree_pass_agrees(model, family)
    except SageError as error:
        raise ModelError(f"{unsupported}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise ModelError(
            f"{unsupported}: they do not follow the common interface "
            f"({type(error).__name__}: {reason})"
        ) from error
    if not agree:
        raise ModelError(f"{unsupported}: their attention is not plain causal attention")


def tree_pass_agrees(model: Any, family: Family) -> bool:
    """Whether the logits after a path in a small tree are those of a forward over the same text.

    The prompt is an image with a question. The path's last node is not adjacent to its parent, so
    that the tree mask matters. The tolerance, relative to the largest logit, is 1e-3 in float32 and
    0.1 in other dtypes.
    """
    shades = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    media = [Picture(Image.fromarray(shades), "an image")]
    inputs = family.prepare(media, "What is this?")
    runner = Runner(model)
    inputs = {k: cast(v, model) for k, v in on_device(inputs, runner.device).items()}
    one = {"max_new_tokens": 1}
    best = runner.prefill(prepare(model, inputs, one), 8).logits[0].topk(3).indices
    root, child, sibling = best.tolist()
    mask = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], dtype=bool)
    tree_logits, _ = runner.forward([root, child, sibling, sibling], [0, 1, 1, 2], mask, last=1)

    ids = torch.cat([inputs["input_ids"], best.new_tensor([[root, child, sibling]])], dim=1)
    pixels = {k: v for k, v in inputs.items() if k not in TEXT_INPUTS + TOKEN_TYPES}
    whole = family.add_token_types(
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | pixels
    )
    own_logits = Runner(model).prefill(prepare(model, whole, one), 8).logits
    bound = 1e-3 if model.dtype == torch.float32 else 0.1
    return bool((tree_logits - own_logits).abs().max() <= bound * own_logits.abs().max())

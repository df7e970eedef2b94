"""TODO docstring."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from sage_core.generation.prepare import prepare
from sage_core.media.types import Picture
from sage_core.models.families.base import Family
from sage_core.models.families.generic import _IDS, _MARKS
from sage_core.models.inputs import cast, on_device
from sage_core.runtime.runner import Runner


def _tree_agrees(model: Any, family: Family) -> bool:
    """Whether a path in a small tree has the logits that one forward over its text has.

    The text is a picture with a question; the path's last node is behind another in the pass.
    """

    shades = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    media = [Picture(Image.fromarray(shades), "a picture")]
    inputs = family.prepare(media, "What is this?")
    runner = Runner(model)
    inputs = {k: cast(v, model) for k, v in on_device(inputs, runner.device).items()}
    best = (
        runner.prefill(prepare(model, inputs, {"max_new_tokens": 1}), 8).logits[0].topk(3).indices
    )
    root, child, aside = best.tolist()
    sees = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], dtype=bool)
    mine, _ = runner.forward([root, child, aside, aside], [0, 1, 1, 2], sees, last=1)

    ids = torch.cat([inputs["input_ids"], best.new_tensor([[root, child, aside]])], dim=1)
    pictures = {name: value for name, value in inputs.items() if name not in _IDS + _MARKS}
    whole = family.add_token_types(
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | pictures
    )
    theirs = Runner(model).prefill(prepare(model, whole, {"max_new_tokens": 1}), 8).logits
    bound = 1e-3 if model.dtype == torch.float32 else 0.1
    return bool((mine - theirs).abs().max() <= bound * theirs.abs().max())

"""Default prompts, placeholder tokens, and model inputs moved to a device and dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

IMAGE_PROMPT = "Describe this image in detail."
VIDEO_PROMPT = "Describe this video in detail."
MARKS = ("image_token_id", "video_token_id")
"""Fields of a configuration that hold the placeholder ids."""


def cast(value: Any, model: Any) -> Any:
    """Floating tensors (pixels) in the model's dtype; other values unchanged."""
    floating = hasattr(value, "is_floating_point") and value.is_floating_point()
    return value.to(model.dtype) if floating else value


def on_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The inputs with all tensors on ``device``; other values unchanged."""
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def visual_mask(config: Any, ids: Tensor, marks: Sequence[str] = MARKS) -> Tensor:
    """bool, in the shape of ``ids``: whether each is a placeholder id of ``config``."""
    known = [getattr(config, name) for name in marks if getattr(config, name, None) is not None]
    return torch.isin(ids, torch.tensor(known, dtype=ids.dtype, device=ids.device))

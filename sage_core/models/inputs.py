"""Default prompts, and model inputs moved to a device and dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IMAGE_PROMPT = "Describe this image in detail."
VIDEO_PROMPT = "Describe this video in detail."


def cast(value: Any, model: Any) -> Any:
    """Floating tensors (pixels) in the model's dtype; other values unchanged."""
    floating = hasattr(value, "is_floating_point") and value.is_floating_point()
    return value.to(model.dtype) if floating else value


def on_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The inputs with all tensors on ``device``; other values unchanged."""
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}

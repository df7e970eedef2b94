"""Placeholder tokens of images and videos in a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

MARKS = ("image_token_id", "video_token_id")
"""Fields of a configuration that hold the placeholder ids."""


def visual_mask(config: Any, ids: torch.Tensor, marks: Sequence[str] = MARKS) -> torch.Tensor:
    """bool, in the shape of ``ids``: whether each is a placeholder id of ``config``."""
    known = [getattr(config, name) for name in marks if getattr(config, name, None) is not None]
    return torch.isin(ids, torch.tensor(known, dtype=ids.dtype, device=ids.device))

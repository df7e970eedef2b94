"""TODO docstring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

MARKS = ("image_token_id", "video_token_id")
"""Where transformers' configurations keep the ids that stand for pictures and frames."""


def visual_mask(config: Any, ids: torch.Tensor, marks: Sequence[str] = MARKS) -> torch.Tensor:
    """bool, shaped as ``ids``: which of them stand for pictures, by the ids ``config`` names."""
    known = [getattr(config, name) for name in marks if getattr(config, name, None) is not None]
    return torch.isin(ids, torch.tensor(known, dtype=ids.dtype, device=ids.device))

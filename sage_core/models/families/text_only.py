"""Text-only language models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage_core.errors import InputError
from sage_core.models.families.base import Family, Media


class TextOnly(Family):
    """Any causal language model without a vision part."""

    @classmethod
    def matches(cls, config: Any) -> bool:
        return not hasattr(config, "vision_config")

    def process_media(self, media: Sequence[Media]) -> dict[str, Any]:
        if media:
            raise InputError(
                f"{media[0].name}: {self.config.model_type} models do not support images or "
                "videos: choose a VLM"
            )
        return {}

    def content(self, text: str, media: Sequence[Media] = ()) -> Any:
        """Chat templates of language models take a string, not a list of parts."""
        return text

"""Language models without eyes: the prompt alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage_core.models.families.base import Family, Media, refuse_media


class TextOnly(Family):
    """Any causal language model; chosen when no other family is and there is no vision part."""

    @classmethod
    def matches(cls, config: Any) -> bool:
        return not hasattr(config, "vision_config")

    def process_media(self, media: Sequence[Media]) -> dict[str, Any]:
        refuse_media(media, f"{self.config.model_type} models see no pictures: choose a VLM")
        return {}

    def content(self, text: str, media: Sequence[Media] = ()) -> Any:
        """Templates of language models take a plain string, not a list of parts."""
        return text

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

    def prepare(self, media: Sequence[Media], prompt: str) -> dict[str, Any]:
        refuse_media(media, f"{self.config.model_type} models see no pictures: choose a VLM")
        return self.encode(self.chat([{"type": "text", "text": prompt}]))

    def chat(self, parts: Any) -> str:
        """Templates of language models take a plain string, not a list of parts."""
        text = "\n".join(part["text"] for part in parts)
        if self.chat_template is None:
            return text
        return str(
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}],
                chat_template=self.chat_template,
                tokenize=False,
                add_generation_prompt=True,
            )
        )

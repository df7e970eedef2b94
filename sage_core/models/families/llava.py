"""LLaVA-1.5: one tile per image; video frames are passed as images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage_core.media.types import Sampling
from sage_core.models.families.base import (
    FramesAsImages,
    Media,
    expand,
    images_of,
    load_image_processor,
)
from sage_core.models.quiet import quiet


class Llava(FramesAsImages):
    """LLaVA-1.5. Videos have four frames by default, since the context is 4,096 tokens."""

    model_types = ("llava",)

    def __init__(self, folder: Path, config: Any, tokenizer: Any) -> None:
        super().__init__(folder, config, tokenizer)
        self.image_processor = load_image_processor(folder)
        self.image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
        self.placeholders = (self.image_token,)
        vision = config.vision_config
        patches = (int(vision.image_size) // int(vision.patch_size)) ** 2
        extra = 0 if vision.model_type == "siglip_vision_model" else 1  # CLIP's class token
        dropped = config.vision_feature_select_strategy == "default"
        self.image_tokens = patches + extra - int(dropped)

    @property
    def sampling(self) -> Sampling:
        pixels = int(self.config.vision_config.image_size)
        return Sampling(frames=4, frame_pixels=(4 * pixels) ** 2)

    def process_media(self, media: Sequence[Media]) -> dict[str, Any]:
        images = images_of(media)
        if not images:
            return {}
        with quiet():
            batch = self.image_processor(images, return_tensors="pt")
        return {"pixel_values": batch["pixel_values"]}  # (images, 3, side, side) float32

    def expand_placeholders(
        self, text: str, media: Sequence[Media], media_inputs: dict[str, Any]
    ) -> str:
        counts = [self.image_tokens] * len(images_of(media))
        return expand(text, self.image_token, counts, "images")

"""LLaVA-OneVision: tiles for a single image, one tile each for several, pooled video frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sage_core.media.types import Clip, Sampling
from sage_core.models.families.base import Family, Media, expand, load_image_processor, split_media
from sage_core.models.quiet import quiet

DECODE_FACTOR = 4
"""Frames are decoded at up to this multiple of the model's image side."""


class LlavaOnevision(Family):
    """LLaVA-OneVision and the bundled pair."""

    model_types = ("llava_onevision",)

    def __init__(self, folder: Path, config: Any, tokenizer: Any) -> None:
        super().__init__(folder, config, tokenizer)
        self.image_processor = load_image_processor(folder)
        self.image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
        self.video_token = tokenizer.convert_ids_to_tokens(config.video_token_id)
        self.placeholders = (self.image_token, self.video_token)
        self.pixels = int(config.vision_config.image_size)
        self.side = self.pixels // int(config.vision_config.patch_size)
        """Patches along one side of a tile."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(frames=8, frame_pixels=(DECODE_FACTOR * self.pixels) ** 2)

    def process_media(self, media: Sequence[Media]) -> dict[str, Any]:
        images, videos = split_media(media)
        media_inputs: dict[str, Any] = {}
        if images:  # pixel_values float32 (images, tiles, 3, side, side), sizes, number
            batch = [[image.image for image in images]]
            with quiet():
                media_inputs |= self.image_processor(batch, return_tensors="pt")
        if videos:
            media_inputs["pixel_values_videos"] = self._videos(videos)
        return media_inputs

    def expand_placeholders(
        self, text: str, media: Sequence[Media], media_inputs: dict[str, Any]
    ) -> str:
        images, videos = split_media(media)
        image_tokens = [self.image_tokens(p.size, len(images)) for p in images]
        text = expand(text, self.image_token, image_tokens, "images")
        frames = media_inputs["pixel_values_videos"].shape[1] if videos else 0
        return expand(text, self.video_token, [self.video_tokens(frames)] * len(videos), "videos")

    def image_tokens(self, size: tuple[int, int], images: int) -> int:
        """Token count of one of ``images`` images; ``size`` is (width, height).

        As in `LlavaOnevisionModel.pack_image_features`: the base tile, then the tiles of the best
        grid without padding, downscaled if too many, with a newline token per row of patches.
        """
        if images > 1:
            return self.side**2 + 1
        import torch
        from transformers.models.llava_onevision.modeling_llava_onevision import (
            get_anyres_image_grid_shape,
            unpad_image,
        )

        height_width = (size[1], size[0])
        rows, columns = get_anyres_image_grid_shape(
            height_width, self.config.image_grid_pinpoints, self.pixels
        )
        tiles = torch.empty(1, rows * self.side, columns * self.side, device="meta")
        height, width = unpad_image(tiles, height_width).shape[1:]
        most = int(self.config.vision_aspect_ratio.removeprefix("anyres_max_"))
        ratio = math.sqrt(height * width / (most * self.side**2))
        if ratio > 1.1:
            height, width = int(height // ratio), int(width // ratio)
        return self.side**2 + height * width + height

    def video_tokens(self, frames: int) -> int:
        """Token count of a video: frames pooled 2 x 2, and one newline token."""
        return frames * math.ceil(self.side / 2) ** 2 + 1

    def _videos(self, videos: Sequence[Clip]) -> Any:
        """float32 (videos, frames, 3, side, side).

        All videos of a batch have one length: frames of shorter ones are repeated.
        """
        import torch

        length = max(len(video.frames) for video in videos)
        return torch.stack([self._frames(video, length) for video in videos])

    def _frames(self, video: Clip, length: int) -> Any:
        """One video's frames, float32 (length, 3, side, side).

        The video processor of transformers needs torchvision. The base tile of the image processor
        is the same resize and normalisation, so a grid of that single tile is requested.
        """
        import torch

        tiles = []
        with quiet():
            for frame in video.frames:
                batch = self.image_processor(
                    frame,
                    image_grid_pinpoints=[[self.pixels, self.pixels]],
                    input_data_format="channels_last",
                    return_tensors="pt",
                )
                tiles.append(batch["pixel_values"][0, 0])
        shown = np.linspace(0, len(tiles) - 1, length).astype(np.int64)
        return torch.stack([tiles[i] for i in shown])

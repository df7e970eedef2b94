"""LLaVA-OneVision: tiles for one picture, one tile each for several, pooled frames for clips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sage_core.media.types import Clip, Picture, Sampling
from sage_core.models.families.base import (
    Family,
    Media,
    expand,
    load_image_processor,
    split_media,
)
from sage_core.models.quiet import quiet

DECODE_FACTOR = 4
"""Frames are decoded at up to this many times the side that the model sees."""


class LlavaOnevision(Family):
    """LLaVA-OneVision and the bundled pair."""

    model_types = ("llava_onevision",)

    def __init__(self, folder: Path, config: Any, tokenizer: Any) -> None:
        super().__init__(folder, config, tokenizer)
        self.image_processor = load_image_processor(folder)
        self.image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
        self.video_token = tokenizer.convert_ids_to_tokens(config.video_token_id)
        self.pixels = int(config.vision_config.image_size)
        self.side = self.pixels // int(config.vision_config.patch_size)
        """Patches along one side of a tile."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(frames=8, frame_pixels=(DECODE_FACTOR * self.pixels) ** 2)

    @property
    def placeholders(self) -> tuple[str, ...]:
        return (self.image_token, self.video_token)

    def process_media(self, media: Sequence[Media]) -> dict[str, Any]:
        pictures, clips = split_media(media)
        media_inputs = self._pictures(pictures) if pictures else {}
        if clips:
            media_inputs["pixel_values_videos"] = self._clips(clips)
        return media_inputs

    def expand_placeholders(
        self, text: str, media: Sequence[Media], media_inputs: dict[str, Any]
    ) -> str:
        pictures, clips = split_media(media)
        image_tokens = [self.picture_tokens(p.size, len(pictures)) for p in pictures]
        text = expand(text, self.image_token, image_tokens, "pictures")
        frames = media_inputs["pixel_values_videos"].shape[1] if clips else 0
        return expand(text, self.video_token, [self.clip_tokens(frames)] * len(clips), "clips")

    def picture_tokens(self, size: tuple[int, int], pictures: int) -> int:
        """Tokens of one of ``pictures`` pictures whose ``size`` is (width, height).

        Follows `LlavaOnevisionModel.pack_image_features`: the base tile, then the tiles of the
        best grid without their padding, shrunk if they are too many, with one newline a row.
        """
        if pictures > 1:
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

    def clip_tokens(self, frames: int) -> int:
        """Tokens of a clip: every frame pooled by two in each direction, and one newline."""
        return frames * math.ceil(self.side / 2) ** 2 + 1

    def _pictures(self, pictures: Sequence[Picture]) -> dict[str, Any]:
        """``pixel_values`` (pictures, tiles, 3, side, side), ``image_sizes``, and their number."""
        with quiet():
            batch = self.image_processor([[p.image for p in pictures]], return_tensors="pt")
        return dict(batch)

    def _clips(self, clips: Sequence[Clip]) -> Any:
        """float32 of shape (clips, frames, 3, side, side).

        The models take clips of one length only, so shorter ones show some frames twice.
        """
        import torch

        length = max(len(clip.frames) for clip in clips)
        return torch.stack([self._frames(clip, length) for clip in clips])

    def _frames(self, clip: Clip, length: int) -> Any:
        """Frames through the image processor, without tiles: (length, 3, side, side) float32.

        transformers' video processor needs torchvision. The base tile of a picture is the same
        thing, a plain resize and normalisation, so a grid of that one tile is asked for.
        """
        import torch

        tiles = []
        with quiet():
            for frame in clip.frames:
                batch = self.image_processor(
                    frame,
                    image_grid_pinpoints=[[self.pixels, self.pixels]],
                    input_data_format="channels_last",
                    return_tensors="pt",
                )
                tiles.append(batch["pixel_values"][0, 0])
        shown = np.linspace(0, len(tiles) - 1, length).astype(np.int64)
        return torch.stack([tiles[i] for i in shown])

"""Qwen2-VL and Qwen2.5-VL: images and frames at native resolution, as patches on a time grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sage_core.media.types import Clip, FrameRate, Sampling
from sage_core.models.catalog import reading_json
from sage_core.models.families.base import (
    Family,
    Media,
    as_image,
    expand,
    load_image_processor,
    split_media,
)
from sage_core.models.quiet import quiet

AT_ONCE = 16
"""Groups of frames per call of the image processor."""
Pixels = dict[str, int]
"""``shortest_edge`` and ``longest_edge``: least and most pixels, in the terms of transformers."""

VIDEO_PIXELS = int(0.9 * 128_000) * 2 * 28**2
"""qwen-vl-utils limits a video to 90% of a context of 128,000 tokens of 2 x 28 x 28 pixels."""


class Qwen2VL(Family):
    """Qwen2-VL and Qwen2.5-VL."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl")
    video_pixels: ClassVar[Pixels] = {"shortest_edge": 128 * 28**2, "longest_edge": 768 * 28**2}
    """Default of transformers for a frame."""

    def __init__(self, folder: Path, config: Any, tokenizer: Any) -> None:
        super().__init__(folder, config, tokenizer)
        self.image_processor = load_image_processor(folder)
        self.image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
        self.video_token = tokenizer.convert_ids_to_tokens(config.video_token_id)
        self.placeholders = (self.image_token, self.video_token)
        self.pair = int(self.image_processor.temporal_patch_size)
        """Frames per temporal patch: 2."""
        self.clip_pixels = _pixel_limits(folder, self.video_pixels)

    @property
    def sampling(self) -> Sampling:
        """Two frames per second within limits of number and size, as in qwen-vl-utils."""
        return Sampling(
            rate=FrameRate(fps=2.0, min_frames=4, max_frames=768, multiple_of=2),
            frame_pixels=self.video_pixels["longest_edge"],
            clip_pixels=VIDEO_PIXELS,
        )

    def process_media(self, media: Sequence[Media]) -> dict[str, Any]:
        images, videos = split_media(media)
        media_inputs: dict[str, Any] = {}
        if images:
            with quiet():
                media_inputs |= self.image_processor([p.image for p in images], return_tensors="pt")
        if videos:
            media_inputs |= self._videos(videos)
        return media_inputs

    def expand_placeholders(
        self, text: str, media: Sequence[Media], media_inputs: dict[str, Any]
    ) -> str:
        image_tokens = [self._tokens(grid) for grid in media_inputs.get("image_grid_thw", ())]
        text = expand(text, self.image_token, image_tokens, "images")
        return self._expand_videos(text, split_media(media)[1], media_inputs)

    def add_token_types(self, inputs: dict[str, Any]) -> dict[str, Any]:
        ids = inputs["input_ids"]
        # 1 at image tokens, 2 at video tokens, 0 at text: determines the rotary positions.
        seen = (ids == self.config.image_token_id).int() + 2 * (ids == self.config.video_token_id)
        return inputs | {"mm_token_type_ids": seen.int()}

    def _expand_videos(self, text: str, videos: Sequence[Clip], inputs: dict[str, Any]) -> str:
        counts = [self._tokens(grid) for grid in inputs["video_grid_thw"]] if videos else []
        return expand(text, self.video_token, counts, "videos")

    def _tokens(self, grid: Any) -> int:
        """Token count of a (time, height, width) grid of patches after merging."""
        return int(grid.prod()) // int(self.image_processor.merge_size) ** 2

    def _videos(self, videos: Sequence[Clip]) -> dict[str, Any]:
        """``pixel_values_videos`` (patches, values), ``video_grid_thw``, ``second_per_grid_ts``.

        The video processor of transformers needs torchvision. The Pillow image processor gives the
        same patches, each frame repeated in all temporal slots of its patches; taking slot j from
        frame j of every group gives the patches of the video.
        """
        import torch

        patches, grids = zip(*(self._patches(video) for video in videos), strict=True)
        found: dict[str, Any] = {
            "pixel_values_videos": torch.cat(patches),
            "video_grid_thw": torch.tensor(grids),
        }
        if self.config.model_type == "qwen2_5_vl":  # its rotary positions depend on seconds
            found["second_per_grid_ts"] = torch.tensor([self.pair / _rate(c) for c in videos])
        return found

    def _patches(self, video: Clip) -> tuple[Any, list[int]]:
        """One video's patches (time · height · width, values) and its grid."""
        import torch

        frames = list(video.frames)
        frames += [frames[-1]] * (-len(frames) % self.pair)
        size = self._frame_pixels(len(frames))
        # In chunks: the processor holds every frame twice in float32.
        chunks = [
            self._chunk(frames[at : at + AT_ONCE * self.pair], size)
            for at in range(0, len(frames), AT_ONCE * self.pair)
        ]
        height, width = chunks[0][1]
        grid = [len(frames) // self.pair, height, width]
        return torch.cat([patches for patches, _ in chunks]), grid

    def _chunk(self, frames: list[np.ndarray], size: Pixels) -> tuple[Any, tuple[int, int]]:
        """Patches of whole groups of frames, and the height and width of the grid."""
        import torch

        with quiet():
            images = [as_image(frame) for frame in frames]
            batch = self.image_processor(images, size=size, return_tensors="pt")
        height, width = (int(n) for n in batch["image_grid_thw"][0, 1:])
        side = int(self.image_processor.patch_size)
        times = len(frames) // self.pair
        # (time, frame in group, patch, channel, time slot, pixels of a patch)
        slots = batch["pixel_values"].view(times, self.pair, height * width, -1, self.pair, side**2)
        merged = torch.stack([slots[:, j, :, :, j] for j in range(self.pair)], dim=3)
        return merged.reshape(times * height * width, -1), (height, width)

    def _frame_pixels(self, frames: int) -> Pixels:
        """Pixel limits of one of ``frames`` frames."""
        return self.clip_pixels


def _pixel_limits(folder: Path, default: Pixels) -> Pixels:
    """Pixel limits of videos from the checkpoint, from the files that transformers reads."""
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        file = folder / name
        if file.is_file():
            with reading_json(file) as given:
                size = dict(given.get("size") or {})
                for edge, key in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
                    if given.get(key) is not None:
                        size[edge] = given[key]
                return {edge: int(size.get(edge, pixels)) for edge, pixels in default.items()}
    return default


def _rate(video: Clip) -> float:
    """Sampled frames per second."""
    times: np.ndarray = video.timestamps
    span = float(times[-1] - times[0])
    return (len(times) - 1) / span if span > 0 else video.fps

"""Qwen2-VL and Qwen2.5-VL: pictures and frames at their own size, in patches on a time grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sage_core.media.types import Clip, FrameRate, Sampling
from sage_core.models.families.base import (
    Family,
    Media,
    expand,
    load_image_processor,
    split_media,
)
from sage_core.models.quiet import quiet

AT_ONCE = 16
"""Groups of frames that go through the image processor in one call."""
Pixels = dict[str, int]
"""``shortest_edge`` and ``longest_edge``: least and most pixels, as transformers names them."""

CLIP_PIXELS = int(0.9 * 128_000) * 2 * 28**2
"""qwen-vl-utils lets a clip fill nine tenths of a context of 128,000 tokens, each 2 x 28 x 28."""


class Qwen2VL(Family):
    """Qwen2-VL and Qwen2.5-VL."""

    model_types = ("qwen2_vl", "qwen2_5_vl")
    video_pixels: ClassVar[Pixels] = {"shortest_edge": 128 * 28**2, "longest_edge": 768 * 28**2}
    """transformers' default for a frame where the checkpoint names none."""

    def __init__(self, folder: Path, config: Any, tokenizer: Any) -> None:
        super().__init__(folder, config, tokenizer)
        self.image_processor = load_image_processor(folder)
        self.image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
        self.video_token = tokenizer.convert_ids_to_tokens(config.video_token_id)
        self.pair = int(self.image_processor.temporal_patch_size)
        """Frames that share a patch in time: 2."""
        self.clip_pixels = _clip_pixels(folder, self.video_pixels)

    @property
    def sampling(self) -> Sampling:
        """Two frames a second within limits of number and size, as qwen-vl-utils has it."""
        return Sampling(
            rate=FrameRate(fps=2.0, min_frames=4, max_frames=768, multiple_of=2),
            frame_pixels=self.video_pixels["longest_edge"],
            clip_pixels=CLIP_PIXELS,
        )

    @property
    def placeholders(self) -> tuple[str, ...]:
        return (self.image_token, self.video_token)

    def process_media(self, media: Sequence[Media]) -> dict[str, Any]:
        pictures, clips = split_media(media)
        media_inputs: dict[str, Any] = {}
        if pictures:
            with quiet():
                media_inputs |= self.image_processor(
                    [p.image for p in pictures], return_tensors="pt"
                )
        if clips:
            media_inputs |= self._clips(clips)
        return media_inputs

    def expand_placeholders(
        self, text: str, media: Sequence[Media], media_inputs: dict[str, Any]
    ) -> str:
        image_tokens = [self._tokens(grid) for grid in media_inputs.get("image_grid_thw", ())]
        text = expand(text, self.image_token, image_tokens, "pictures")
        return self._expand_clips(text, split_media(media)[1], media_inputs)

    def add_token_types(self, inputs: dict[str, Any]) -> dict[str, Any]:
        ids = inputs["input_ids"]
        # 1 at picture tokens, 2 at clip tokens, 0 at text: the rotary positions follow it.
        seen = (ids == self.config.image_token_id).int() + 2 * (ids == self.config.video_token_id)
        return inputs | {"mm_token_type_ids": seen.int()}

    def _expand_clips(self, text: str, clips: Sequence[Clip], inputs: dict[str, Any]) -> str:
        counts = [self._tokens(grid) for grid in inputs["video_grid_thw"]] if clips else []
        return expand(text, self.video_token, counts, "clips")

    def _tokens(self, grid: Any) -> int:
        """Tokens of a (time, height, width) grid of patches, after the model merges them."""
        return int(grid.prod()) // int(self.image_processor.merge_size) ** 2

    def _clips(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """``pixel_values_videos`` (patches, values), ``video_grid_thw``, and seconds a grid step.

        transformers' video processors need torchvision. Its Pillow image processor gives the same
        patches frame by frame, each frame filling all time slots of its patches; taking slot j
        from frame j of every group makes them a clip's.
        """
        import torch

        patches, grids = zip(*(self._patches(clip) for clip in clips), strict=True)
        found: dict[str, Any] = {
            "pixel_values_videos": torch.cat(patches),
            "video_grid_thw": torch.tensor(grids),
        }
        if self.config.model_type == "qwen2_5_vl":  # it times its positions by the clock
            found["second_per_grid_ts"] = torch.tensor([self.pair / _rate(c) for c in clips])
        return found

    def _patches(self, clip: Clip) -> tuple[Any, list[int]]:
        """A clip's patches (time * height * width, values) and its grid."""
        import torch

        frames = list(clip.frames)
        frames += [frames[-1]] * (-len(frames) % self.pair)
        size = self._frame_pixels(len(frames))
        # A few frames at a time: the processor holds each twice over, in float32.
        chunks = [
            self._chunk(frames[at : at + AT_ONCE * self.pair], size)
            for at in range(0, len(frames), AT_ONCE * self.pair)
        ]
        height, width = chunks[0][1]
        grid = [len(frames) // self.pair, height, width]
        return torch.cat([patches for patches, _ in chunks]), grid

    def _chunk(self, frames: list[np.ndarray], size: Pixels) -> tuple[Any, tuple[int, int]]:
        """Patches of whole groups of frames, and how many of them are high and wide."""
        import torch

        with quiet():
            batch = self.image_processor(frames, size=size, return_tensors="pt")
        height, width = (int(n) for n in batch["image_grid_thw"][0, 1:])
        side = int(self.image_processor.patch_size)
        times = len(frames) // self.pair
        # (time, frame in group, patch, channel, time slot, pixels of a patch)
        slots = batch["pixel_values"].view(times, self.pair, height * width, -1, self.pair, side**2)
        merged = torch.stack([slots[:, j, :, :, j] for j in range(self.pair)], dim=3)
        return merged.reshape(times * height * width, -1), (height, width)

    def _frame_pixels(self, frames: int) -> Pixels:
        """Least and most pixels of one of ``frames`` frames."""
        return self.clip_pixels


def _clip_pixels(folder: Path, default: Pixels) -> Pixels:
    """What the checkpoint says of the size of its clips, where transformers would look for it."""
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        file = folder / name
        if file.is_file():
            given = json.loads(file.read_text(encoding="utf-8"))
            size = dict(default) | {
                key: int(value)
                for key, value in (given.get("size") or {}).items()
                if key in default
            }
            for edge, key in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
                if given.get(key) is not None:
                    size[edge] = int(given[key])
            return size
    return default


def _rate(clip: Clip) -> float:
    """Sampled frames a second."""
    times: np.ndarray = clip.timestamps
    span = float(times[-1] - times[0])
    return (len(times) - 1) / span if span > 0 else clip.fps

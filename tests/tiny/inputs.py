"""Inputs of the tiny models as their processors would give them, made directly as tensors."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from tests.tiny.families import (
    BOS,
    FAMILIES,
    FIRST_WORD,
    IMAGE,
    VIDEO,
    VISION_END,
    VISION_START,
    VOCAB,
)

PATCH = 4
MERGE = 2
GRIDS = ((4, 4), (4, 6), (8, 4))
"""Height and width of the Qwen families' pictures, in patches."""
TILE = 16
TALL = (31, 17)
"""Height and width of LLaVA-OneVision's single picture before it is cut into tiles."""
FRAMES = 4

Tensors = dict[str, torch.Tensor]


def make_inputs(model: Any, family: str, kind: str, length: int = 12, seed: int = 0) -> Tensors:
    """What the processor would return for a prompt with ``length`` words and media of ``kind``.

    ``kind`` is "text", "image", "images" (two of different sizes), "video" or "mixed" (a picture
    and a clip). The media stand between the first and the second half of the words.
    """
    spec = FAMILIES[family]
    if kind not in spec.kinds:
        raise ValueError(f"{family} takes no {kind}")
    generator = torch.Generator().manual_seed(1000 * seed + length)
    words = torch.randint(FIRST_WORD, VOCAB, (length,), generator=generator).tolist()
    pictures = {"image": 1, "images": 2, "mixed": 1}.get(kind, 0)
    clips = 1 if kind in ("video", "mixed") else 0
    media, placeholders = _MEDIA[spec.media](model, pictures, clips, generator)
    half = length // 2
    ids = torch.tensor([[BOS, *words[:half], *placeholders, *words[half:]]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **media}
    wants_types = "mm_token_type_ids" in inspect.signature(model.forward).parameters
    if wants_types:
        inputs["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    return inputs


def _noise(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Pixels that differ in brightness from one picture to the next, not only in detail."""
    return torch.randn(*shape, generator=generator) + torch.randn(1, generator=generator)


def _no_media(
    model: Any, pictures: int, clips: int, generator: torch.Generator
) -> tuple[Tensors, list[int]]:
    return {}, []


def _tiles(
    model: Any, pictures: int, clips: int, generator: torch.Generator
) -> tuple[Tensors, list[int]]:
    """LLaVA-1.5: a square each. LLaVA-OneVision: one picture in tiles, several as squares."""
    media: Tensors = {}
    ids: list[int] = []
    if pictures and not hasattr(model.config, "image_grid_pinpoints"):
        media["pixel_values"] = _noise(generator, pictures, 3, TILE, TILE)
        ids += [IMAGE] * ((TILE // PATCH) ** 2 * pictures)
    elif pictures:
        height, width = TALL if pictures == 1 else (TILE, TILE)
        tiles = 1 if pictures > 1 else 1 + -(-height // TILE) * -(-width // TILE)
        media["pixel_values"] = _noise(generator, pictures, tiles, 3, TILE, TILE)
        media["image_sizes"] = torch.tensor([(height, width)] * pictures)
        media["batch_num_images"] = torch.tensor([pictures])
        with torch.no_grad():
            features = model.model.get_image_features(**media, return_dict=True).pooler_output
        ids += [IMAGE] * sum(feature.shape[0] for feature in features)
    if clips:
        media["pixel_values_videos"] = _noise(generator, 1, FRAMES, 3, TILE, TILE)
        ids += [VIDEO] * (FRAMES * (TILE // PATCH // 2) ** 2 + 1)
    return media, ids


def _patches(grids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(sum of t*h*w, channels * 2 * PATCH * PATCH), each picture with a brightness of its own."""
    rows = [_noise(generator, int(grid.prod()), 3 * 2 * PATCH * PATCH) for grid in grids]
    return torch.cat(rows)


def _grid(
    model: Any, pictures: int, clips: int, generator: torch.Generator
) -> tuple[Tensors, list[int]]:
    """Qwen2-VL and Qwen2.5-VL: a clip is one run of video tokens."""
    return _qwen(model, pictures, clips, generator, frame_by_frame=False)


def _frames(
    model: Any, pictures: int, clips: int, generator: torch.Generator
) -> tuple[Tensors, list[int]]:
    """Qwen3-VL: a clip is a run of video tokens for each pair of frames, with text between."""
    return _qwen(model, pictures, clips, generator, frame_by_frame=True)


def _qwen(
    model: Any, pictures: int, clips: int, generator: torch.Generator, frame_by_frame: bool
) -> tuple[Tensors, list[int]]:
    media: Tensors = {}
    ids: list[int] = []
    if pictures:
        grids = torch.tensor([(1, *GRIDS[1 + i]) for i in range(pictures)])
        media["pixel_values"] = _patches(grids, generator)
        media["image_grid_thw"] = grids
        for grid in grids:
            ids += [VISION_START, *[IMAGE] * (int(grid.prod()) // MERGE**2), VISION_END]
    if clips:
        times = FRAMES // 2
        grids = torch.tensor([(times, *GRIDS[0])])
        media["pixel_values_videos"] = _patches(grids, generator)
        media["video_grid_thw"] = grids
        per_frame = GRIDS[0][0] * GRIDS[0][1] // MERGE**2
        if frame_by_frame:
            for time in range(times):
                stamp = FIRST_WORD + time
                ids += [stamp, VISION_START, *[VIDEO] * per_frame, VISION_END]
        else:
            ids += [VISION_START, *[VIDEO] * (per_frame * times), VISION_END]
            if "second_per_grid_ts" in inspect.signature(model.forward).parameters:
                media["second_per_grid_ts"] = torch.tensor([0.5])
    return media, ids


_MEDIA = {"": _no_media, "tiles": _tiles, "grid": _grid, "frames": _frames}

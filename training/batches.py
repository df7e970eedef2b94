"""Packed rows: one picture or clip, then several conversations that see it and themselves only."""

from __future__ import annotations

import multiprocessing as mp
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration

from sage_core.models.visual_tokens import visual_mask
from training.drills import drill
from training.pair import tower_features
from training.tokens import drill_ids, prefix_ids, talk_ids
from training.vision import picture_batch
from training.witness import lessons
from training.world.dialogue import captioned, conversations, random_scene
from training.world.render import PATCHES, draw, patch_targets, pixel_values, placed_at
from training.world.scenes import CLIP_FRAMES, Clip, Pair, Scene, choose

LEARNT: Mapping[str, float] = MappingProxyType(
    {"color": 0.6, "shape": 0.4, "place": 0.4, "value": 0.4, "motion": 0.5, "describe": 0.4}
)
"""Questions that are answered well early, and the share of them that goes on being asked."""


@dataclass(frozen=True)
class BatchConfig:
    """Rows in a batch and tokens in a row."""

    rows: int = 5
    length: int = 320
    short: float = 2.5  # weight of answers of fewer than 40 tokens
    drills: int = 3  # conclusions without a picture
    extra: int = 4  # pictures for the tower and the projector alone


@dataclass(frozen=True)
class Batch:
    """A packed batch; segment 0 is the visual prefix, -1 is padding."""

    ids: np.ndarray  # (rows, length)
    segments: np.ndarray  # (rows, length)
    positions: np.ndarray  # (rows, length)
    said: np.ndarray  # (rows, length), whether the token is the model's to say
    weights: np.ndarray  # (rows, length), how much the token counts
    pixels: np.ndarray  # (pictures, 3, 96, 96)
    targets: np.ndarray  # (pictures, 36, targets)
    kinds: tuple[tuple[str, int], ...]  # per row: "image", "images" or "video", and its pictures
    witness: np.ndarray  # (visual tokens of all rows, lessons)
    extra: int = 0  # how many of the last pictures belong to no row


def scene_pictures(scene: Scene, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 3, 96, 96) and patch targets (n, 36, targets) of a scene."""
    images = draw(scene, frames)
    if isinstance(scene, Clip):
        facts = [patch_targets(placed_at(scene, i / (frames - 1))) for i in range(frames)]
    elif isinstance(scene, Pair):
        facts = [patch_targets(scene.first), patch_targets(scene.second)]
    else:
        facts = [patch_targets(scene)]
    return np.stack([pixel_values(image) for image in images]), np.stack(facts)


def scene_kind(scene: Scene) -> str:
    return "video" if isinstance(scene, Clip) else "images" if isinstance(scene, Pair) else "image"


@dataclass(frozen=True)
class Row:
    """What one row shows and the conversations offered to it."""

    scene: Scene
    frames: int
    talks: Sequence[tuple[list[int], list[bool]]]  # ids after the prefix, and which are said
    witness: np.ndarray  # (visual tokens, lessons)


def make_batch(
    rng: np.random.Generator, tokenizer: Tokenizer, config: BatchConfig, easy: bool = False
) -> Batch:
    """Rows of random scenes, and pictures for the tower alone."""
    rows = []
    for _ in range(config.rows):
        scene = random_scene(rng, easy)
        frames = CLIP_FRAMES
        if isinstance(scene, Clip) and rng.random() < 0.15:
            frames = choose(rng, (6, 7, 10))
        offered = conversations(rng, scene, captioned(rng, scene), 24, LEARNT)
        talks = [talk_ids(tokenizer, talk) for talk in offered]
        talks[1:1] = [drill_ids(tokenizer, drill(rng)) for _ in range(config.drills)]
        rows.append(Row(scene, frames, talks, lessons(scene, frames)))
    extra = picture_batch(rng, config.extra, words=0.55, charts=0.3) if config.extra else None
    return pack(rows, tokenizer, config, extra)


def pack(
    rows: Sequence[Row],
    tokenizer: Tokenizer,
    config: BatchConfig,
    extra: tuple[np.ndarray, np.ndarray] | None = None,
) -> Batch:
    """Fill every row with as many of its conversations as fit."""
    shape = (len(rows), config.length)
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segments, said = np.full(shape, -1, np.int64), np.zeros(shape, bool)
    weights = np.ones(shape, np.float32)
    pixels, targets, kinds, witness = [], [], [], []
    for row, given in enumerate(rows):
        scene, frames = given.scene, given.frames
        shown, facts = scene_pictures(scene, frames)
        pixels.append(shown)
        targets.append(facts)
        kinds.append((scene_kind(scene), len(shown)))
        witness.append(given.witness)
        prefix = prefix_ids(tokenizer, scene, frames)
        fill = start = len(prefix)
        ids[row, :fill], segments[row, :fill], positions[row, :fill] = prefix, 0, np.arange(fill)
        segment = 0
        for new, answer in given.talks:
            end = fill + len(new)
            if end > config.length:
                continue
            segment += 1
            ids[row, fill:end], said[row, fill:end] = new, answer
            segments[row, fill:end] = segment
            weights[row, fill:end] = config.short if sum(answer) < 40 else 1.0
            positions[row, fill:end] = np.arange(start, start + len(new))
            fill = end
    if extra is not None:
        pixels.append(extra[0])
        targets.append(extra[1])
    return Batch(
        ids,
        segments,
        positions,
        said,
        weights,
        np.concatenate(pixels),
        np.concatenate(targets),
        tuple(kinds),
        np.concatenate(witness),
        0 if extra is None else len(extra[0]),
    )


def block_mask(segments: torch.Tensor) -> torch.Tensor:
    """(rows, 1, length, length): what each token may see, as an additive mask."""
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    prefix = (segments[:, None, :] == 0) & (segments[:, :, None] >= 0)
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    allowed = (same | prefix) & causal
    mask = torch.zeros(allowed.shape, device=segments.device)
    return mask.masked_fill_(~allowed, torch.finfo(torch.float32).min)[:, None]


def visual_tokens(
    model: LlavaOnevisionForConditionalGeneration,
    features: torch.Tensor,
    kinds: tuple[tuple[str, int], ...],
) -> torch.Tensor:
    """(tokens, hidden) of all rows in order, laid out as transformers lays them out."""
    projected = model.model.multi_modal_projector(features)  # (pictures, 36, hidden)
    newline = model.model.image_newline.to(projected.dtype)[None]
    out, at = [], 0
    for kind, count in kinds:
        part = projected[at : at + count]
        at += count
        if kind == "video":
            out += [_pool(part).flatten(0, 1), newline]
        elif kind == "images":
            out += [piece for picture in part for piece in (picture, newline)]
        else:
            rows = part[0].view(PATCHES, PATCHES, -1)
            ends = newline[None].expand(PATCHES, 1, -1)
            out += [part[0], torch.cat([rows, ends], dim=1).flatten(0, 1)]
    return torch.cat(out)


def _pool(frames: torch.Tensor) -> torch.Tensor:
    """(n, 36, hidden) to (n, 9, hidden), as the model pools frames."""
    count, _, hidden = frames.shape
    grid = frames.view(count, PATCHES, PATCHES, hidden).permute(0, 3, 1, 2)
    half = (PATCHES + 1) // 2
    small = F.interpolate(grid, size=(half, half), mode="bilinear")
    return small.permute(0, 2, 3, 1).reshape(count, -1, hidden)


def visual(model: LlavaOnevisionForConditionalGeneration, ids: torch.Tensor) -> torch.Tensor:
    """(rows, length) bool: which tokens stand for pictures."""
    return visual_mask(model.config, ids)


def embed(
    model: LlavaOnevisionForConditionalGeneration,
    ids: torch.Tensor,
    features: torch.Tensor,
    kinds: tuple[tuple[str, int], ...],
) -> torch.Tensor:
    """(rows, length, hidden) input embeddings with the visual tokens in their places."""
    embedded = model.get_input_embeddings()(ids)
    tokens = visual_tokens(model, features, kinds).to(embedded.dtype)
    return embedded.masked_scatter(visual(model, ids)[..., None].expand_as(embedded), tokens)


def encode_pictures(
    model: LlavaOnevisionForConditionalGeneration, pixels: torch.Tensor
) -> torch.Tensor:
    return tower_features(model, pixels)


def _work(
    queue: mp.Queue[Batch], tokenizer: Tokenizer, config: BatchConfig, key: list[int], easy: int
) -> None:
    torch.set_num_threads(1)
    step = key[-1]
    while True:
        rng = np.random.default_rng([*key[:-1], step])
        queue.put(make_batch(rng, tokenizer, config, easy=step < easy))
        step += 1


def batches(
    tokenizer: Tokenizer, config: BatchConfig, key: list[int], easy: int = 0
) -> Iterator[Batch]:
    """Endless batches from a background process; the last number of the key is the first step."""
    context = mp.get_context("fork")
    queue = context.Queue(maxsize=4)
    process = context.Process(target=_work, args=(queue, tokenizer, config, key, easy), daemon=True)
    process.start()
    try:
        while True:
            yield queue.get()
    finally:
        process.terminate()

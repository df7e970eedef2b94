"""Packed rows: one image or video, then conversations that attend to it and to themselves only."""

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

from sage_core.models.inputs import visual_mask
from training.auxiliary import token_labels
from training.drills import drill
from training.tokens import drill_ids, prefix_ids, talk_ids
from training.vision import picture_batch
from training.world.dialogue import captioned, conversations, random_scene
from training.world.render import PATCHES, draw, patch_targets, pixel_values, placed_at
from training.world.scenes import CLIP_FRAMES, Clip, Pair, Scene, choose

LEARNT: Mapping[str, float] = MappingProxyType(
    {"color": 0.6, "shape": 0.4, "place": 0.4, "value": 0.4, "motion": 0.5, "describe": 0.4}
)
"""Kinds of questions that are learned early, and the share of them that is kept."""


@dataclass(frozen=True)
class BatchConfig:
    """Rows in a batch and tokens in a row."""

    rows: int = 5
    length: int = 320
    short: float = 2.5  # weight of answers of fewer than 40 tokens
    drills: int = 3  # conclusions without an image
    extra: int = 4  # images for the tower and the projector only


@dataclass(frozen=True)
class Batch:
    """A packed batch; segment 0 is the visual prefix, -1 is padding."""

    ids: np.ndarray  # (rows, length)
    segments: np.ndarray  # (rows, length)
    positions: np.ndarray  # (rows, length)
    trained: np.ndarray  # (rows, length), whether the token is part of an answer
    weights: np.ndarray  # (rows, length), of the loss
    pixels: np.ndarray  # (images, 3, 96, 96)
    targets: np.ndarray  # (images, 36, targets)
    kinds: tuple[tuple[str, int], ...]  # of each row: its kind and number of images
    token_labels: np.ndarray  # (visual tokens of all rows, labels)
    extra: int = 0  # the number of last images that belong to no row


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
    """The scene of one row and its conversations, of which it holds as many as fit."""

    scene: Scene
    frames: int
    talks: Sequence[tuple[list[int], list[bool]]]  # ids, and whether each is trained
    token_labels: np.ndarray  # (visual tokens, labels)


def make_batch(
    rng: np.random.Generator, tokenizer: Tokenizer, config: BatchConfig, easy: bool = False
) -> Batch:
    """Rows of random scenes, and images for the tower only."""
    rows = []
    for _ in range(config.rows):
        scene = random_scene(rng, easy)
        frames = CLIP_FRAMES
        if isinstance(scene, Clip) and rng.random() < 0.15:
            frames = choose(rng, (6, 7, 10))
        offered = conversations(rng, scene, captioned(rng, scene), 24, LEARNT)
        talks = [talk_ids(tokenizer, talk) for talk in offered]
        talks[1:1] = [drill_ids(tokenizer, drill(rng)) for _ in range(config.drills)]
        rows.append(Row(scene, frames, talks, token_labels(scene, frames)))
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
    segments, trained = np.full(shape, -1, np.int64), np.zeros(shape, bool)
    weights = np.ones(shape, np.float32)
    pixels, targets, kinds, token_labels = [], [], [], []
    for row, given in enumerate(rows):
        scene, frames = given.scene, given.frames
        shown, facts = scene_pictures(scene, frames)
        pixels.append(shown)
        targets.append(facts)
        kinds.append((scene_kind(scene), len(shown)))
        token_labels.append(given.token_labels)
        prefix = prefix_ids(tokenizer, scene, frames)
        fill = start = len(prefix)
        ids[row, :fill], segments[row, :fill], positions[row, :fill] = prefix, 0, np.arange(fill)
        segment = 0
        for new, answer in given.talks:
            end = fill + len(new)
            if end > config.length:
                continue
            segment += 1
            ids[row, fill:end], trained[row, fill:end] = new, answer
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
        trained,
        weights,
        np.concatenate(pixels),
        np.concatenate(targets),
        tuple(kinds),
        np.concatenate(token_labels),
        0 if extra is None else len(extra[0]),
    )


def block_mask(segments: torch.Tensor) -> torch.Tensor:
    """(rows, 1, length, length) additive mask: a token attends to the prefix and its segment."""
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


def embed(
    model: LlavaOnevisionForConditionalGeneration,
    ids: torch.Tensor,
    features: torch.Tensor,
    kinds: tuple[tuple[str, int], ...],
) -> torch.Tensor:
    """(rows, length, hidden) input embeddings, those of visual tokens from ``features``."""
    embedded = model.get_input_embeddings()(ids)
    tokens = visual_tokens(model, features, kinds).to(embedded.dtype)
    mask = visual_mask(model.config, ids)[..., None]
    return embedded.masked_scatter(mask.expand_as(embedded), tokens)


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
    """Batches without end from a background process; ``key`` ends with the first step."""
    context = mp.get_context("fork")
    queue = context.Queue(maxsize=4)
    process = context.Process(target=_work, args=(queue, tokenizer, config, key, easy), daemon=True)
    process.start()
    try:
        while True:
            yield queue.get()
    finally:
        process.terminate()

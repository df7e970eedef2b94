"""Reference decoding with plain forward passes: batched greedy decoding, and chain drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import DynamicCache, LlavaOnevisionForConditionalGeneration

from training.batches import embed, scene_kind
from training.pair import SPECIAL, tower_features
from training.tokens import prompt_ids
from training.world.render import draw, pixel_values
from training.world.scenes import CLIP_FRAMES, Scene

PAD, END = SPECIAL.index("<|endoftext|>"), SPECIAL.index("<|im_end|>")


@dataclass(frozen=True)
class Request:
    """A prompt about a scene; ``pixels`` is (images, 3, 96, 96)."""

    scene: Scene
    ids: tuple[int, ...]
    pixels: np.ndarray
    kind: str

    @staticmethod
    def make(tokenizer: Tokenizer, scene: Scene, prompt: str) -> Request:
        pixels = np.stack([pixel_values(image) for image in draw(scene, CLIP_FRAMES)])
        ids = prompt_ids(tokenizer, scene, prompt)
        return Request(scene, tuple(ids), pixels, scene_kind(scene))


def _embedded(
    model: LlavaOnevisionForConditionalGeneration,
    rows: Sequence[Sequence[int]],
    requests: Sequence[Request],
) -> torch.Tensor:
    """(rows, longest, hidden), padded on the left."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[PAD] * (longest - len(row)) + list(row) for row in rows])
    pixels = torch.from_numpy(np.concatenate([r.pixels for r in requests]))
    features = tower_features(model, pixels.to(model.dtype))
    return embed(model, ids, features, tuple((r.kind, len(r.pixels)) for r in requests))


def _mask(pads: torch.Tensor, queries: int, length: int, dtype: torch.dtype) -> torch.Tensor:
    """(rows, 1, queries, length): causal, without the padding before each row."""
    columns = torch.arange(length)
    lines = torch.arange(length - queries, length)
    allowed = (columns[None, None] <= lines[None, :, None]) & (
        columns[None, None] >= pads[:, None, None]
    )
    allowed = allowed | (columns[None, None] == lines[None, :, None])
    mask = torch.zeros(allowed.shape, dtype=dtype)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


@torch.inference_mode()
def greedy(
    model: LlavaOnevisionForConditionalGeneration, requests: Sequence[Request], limit: int
) -> list[list[int]]:
    """New tokens of each request, including the end token."""
    embedded = _embedded(model, [r.ids for r in requests], requests)
    count, length = embedded.shape[:2]
    pads = torch.tensor([length - len(r.ids) for r in requests])
    cache = DynamicCache()
    positions = (torch.arange(length)[None] - pads[:, None]).clamp(min=0)
    out: list[list[int]] = [[] for _ in requests]
    running = [True] * count
    for step in range(limit):
        total = length + step
        hidden = model.model.language_model(
            inputs_embeds=embedded,
            attention_mask=_mask(pads, embedded.shape[1], total, embedded.dtype),
            position_ids=positions,
            past_key_values=cache,
        ).last_hidden_state[:, -1]
        chosen = model.lm_head(hidden).argmax(-1)
        for i, token in enumerate(chosen.tolist()):
            if running[i]:
                out[i].append(token)
                running[i] = token not in (END, PAD)
        if not any(running):
            break
        embedded = model.get_input_embeddings()(chosen[:, None])
        positions = (total - pads)[:, None]
    return out


@torch.inference_mode()
def agreement(
    draft: LlavaOnevisionForConditionalGeneration,
    requests: Sequence[Request],
    texts: Sequence[Sequence[int]],
) -> list[np.ndarray]:
    """Per text, whether the draft's greedy choice at each token is that token."""
    rows = [[*r.ids, *text] for r, text in zip(requests, texts, strict=True)]
    embedded = _embedded(draft, rows, requests)
    length = embedded.shape[1]
    pads = torch.tensor([length - len(row) for row in rows])
    hidden = draft.model.language_model(
        inputs_embeds=embedded,
        attention_mask=_mask(pads, length, length, embedded.dtype),
        position_ids=(torch.arange(length)[None] - pads[:, None]).clamp(min=0),
        use_cache=False,
    ).last_hidden_state
    out = []
    for i, text in enumerate(texts):
        at = length - len(text) - 1
        best = draft.lm_head(hidden[i, at : length - 1]).argmax(-1).numpy()
        out.append(best == np.asarray(text))
    return out


def chain_lengths(agrees: np.ndarray, depth: int = 5) -> list[int]:
    """Accepted length of each step of a greedy chain.

    A token of a chain is accepted only if all before it are, so the draft's context is always the
    target's text, and one pass over that text gives every step's accepted length. The first token
    comes from the target's prefill; each step adds a bonus token.

    Args:
        agrees: (tokens,) bool, whether the draft's greedy token is the target's.
        depth: drafted tokens of a step.
    """
    lengths, at = [], 1
    while at < len(agrees):
        run = 0
        while run < depth and at + run < len(agrees) and agrees[at + run]:
            run += 1
        lengths.append(run)
        at += run + 1
    return lengths

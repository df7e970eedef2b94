"""Stage 1: the vision tower is trained to classify each patch."""

from __future__ import annotations

import multiprocessing as mp
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration

from training.optim import Optimizer, Rates
from training.pair import tower_features
from training.world.render import (
    TARGETS,
    Placed,
    draw_frame,
    draw_picture,
    patch_targets,
    pixel_values,
    placed_at,
)
from training.world.scenes import Picture, random_chart, random_clip, random_shapes, random_words

Batch = tuple[np.ndarray, np.ndarray]  # (n, 3, 96, 96) in [-1, 1] and (n, 36, targets)


@dataclass(frozen=True)
class VisionConfig:
    """How the tower is trained."""

    minutes: float = 7.0
    batch: int = 64
    rates: Rates = field(default_factory=lambda: Rates(3e-3, 2e-3))
    workers: int = 1


class PatchHead(nn.Module):
    """Linear classifiers on each patch, one per target."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, sum(TARGETS.values()))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.out(self.norm(features)).split(list(TARGETS.values()), dim=-1)

    def loss(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Sum over targets of the mean cross-entropy where a target exists."""
        total = features.new_zeros(())
        for i, logits in enumerate(self(features)):
            wanted = targets[..., i].reshape(-1)
            flat = logits.float().reshape(len(wanted), -1)
            count = (wanted >= 0).sum().clamp(min=1)
            weight = 0.3 if list(TARGETS)[i] == "place" else 1.0
            loss = F.cross_entropy(flat, wanted, ignore_index=-1, reduction="sum")
            total = total + weight * loss / count
        return total

    @torch.no_grad()
    def accuracy(self, features: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        out = {}
        for i, (name, logits) in enumerate(zip(TARGETS, self(features), strict=True)):
            wanted = targets[..., i]
            known = wanted >= 0
            right = (logits.argmax(-1) == wanted) & known
            out[name] = float(right.sum() / known.sum().clamp(min=1))
        return out


def align_loss(
    model: LlavaOnevisionForConditionalGeneration,
    features: torch.Tensor,
    targets: torch.Tensor,
    names: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Cross-entropy that aligns each projected patch with the embeddings of the tokens it shows.

    Rare words and numbers are then copied as well as common ones.
    """
    projected = F.normalize(model.model.multi_modal_projector(features).float(), dim=-1)
    table = F.normalize(model.lm_head.weight.detach().float(), dim=-1)
    logs = F.log_softmax(16.0 * projected @ table.T, dim=-1)  # (pictures, 36, vocabulary)
    total, count = logs.new_zeros(()), logs.new_zeros(())
    for i, name in enumerate(TARGETS):
        if name not in names:
            continue
        wanted = names[name][targets[..., i].clamp(min=0)]
        known = (targets[..., i] >= 0) & (wanted >= 0)
        picked = logs.gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
        total, count = total - (picked * known).sum(), count + known.sum()
    return total / count.clamp(min=1)


def _picture(rng: np.random.Generator, kind: float, words: float, charts: float) -> Picture:
    """An image of words, a chart, or shapes, by where ``kind`` falls in [0, 1)."""
    if kind >= 1 - words:
        return random_words(rng)
    return random_chart(rng) if kind >= 1 - words - charts else random_shapes(rng)


def picture_batch(
    rng: np.random.Generator, count: int, words: float = 0.35, charts: float = 0.25
) -> Batch:
    """Images of all kinds, and single frames of videos."""
    pixels, targets = [], []
    for _ in range(count):
        kind = rng.random()
        facts: Picture | list[Placed]
        if kind < 0.3 * (1 - words - charts):
            clip = random_clip(rng)
            moment = float(rng.random())
            image, facts = draw_frame(clip, moment), placed_at(clip, moment)
        else:
            scene = _picture(rng, kind, words, charts)
            image, facts = draw_picture(scene), scene
        pixels.append(pixel_values(image))
        targets.append(patch_targets(facts))
    return np.stack(pixels), np.stack(targets)


def _work(queue: mp.Queue[Batch], seed: int, worker: int, count: int) -> None:
    rng = np.random.default_rng([seed, 11, worker])
    while True:
        queue.put(picture_batch(rng, count))


def picture_batches(seed: int, count: int, workers: int) -> Iterator[Batch]:
    """Batches without end, rendered by ``workers`` background processes."""
    if not workers:
        rng = np.random.default_rng([seed, 11, 0])
        while True:
            yield picture_batch(rng, count)
    context = mp.get_context("fork")
    queues = [context.Queue(maxsize=6) for _ in range(workers)]
    processes = [
        context.Process(target=_work, args=(queue, seed, i, count), daemon=True)
        for i, queue in enumerate(queues)
    ]
    for process in processes:
        process.start()
    try:
        while True:
            for queue in queues:
                yield queue.get()
    finally:
        for process in processes:
            process.terminate()


def train_vision(
    model: LlavaOnevisionForConditionalGeneration,
    head: PatchHead,
    config: VisionConfig,
    seed: int,
    device: torch.device,
    log: Path,
) -> None:
    """Train the tower and the head for a time; logs a line every fifty steps."""
    tower = model.model.vision_tower
    named = [*tower.named_parameters(), *head.named_parameters()]
    optimizer = Optimizer([(1.0, named)], config.rates)
    begin, step = time.time(), 0
    batches = picture_batches(seed, config.batch, config.workers)
    with log.open("a", encoding="utf-8") as out:
        while (done := (time.time() - begin) / (60 * config.minutes)) < 1:
            pixels, targets = (torch.from_numpy(a).to(device) for a in next(batches))
            with torch.autocast(device.type, dtype=torch.bfloat16):
                features = tower_features(model, pixels)
                loss = head.loss(features, targets)
            loss.backward()
            optimizer.step(min(1.0, (step + 1) / 50) * min(1.0, 1.5 * (1 - done)))
            if step % 50 == 0:
                with torch.autocast(device.type, dtype=torch.bfloat16):
                    accuracy = head.accuracy(features.detach(), targets)
                shown = " ".join(f"{name}={value:.3f}" for name, value in accuracy.items())
                line = f"vision step={step} time={time.time() - begin:.0f} loss={loss:.3f} {shown}"
                print(line, flush=True)
                out.write(line + "\n")
            step += 1
    batches.close()  # type: ignore[attr-defined]

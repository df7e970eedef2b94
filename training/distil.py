"""Stage 3: distillation of the draft from the target."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration

from training.batches import BatchConfig, batches
from training.common import Log, Tensors, factor, hidden_states, mean_values, to_device
from training.optim import Optimizer, Rates
from training.pair import tower_features
from training.parallel import Group


@dataclass(frozen=True)
class DraftConfig:
    """How the draft is distilled."""

    minutes: float
    batch: BatchConfig = field(default_factory=lambda: BatchConfig(extra=0))
    rates: Rates = field(default_factory=lambda: Rates(3e-3, 2e-3))
    truth: float = 0.1  # weight of the cross-entropy with the text itself
    passes: int = 3  # draft steps on the same target logits
    save_minutes: float = 2.0


@dataclass(frozen=True)
class Example:
    """A batch with the target's distribution at each trained position."""

    data: Tensors
    features: torch.Tensor  # (images, 36, vision hidden)
    wanted: torch.Tensor  # (n, vocabulary) log-probabilities of the target


def copy_start(
    target: LlavaOnevisionForConditionalGeneration, draft: LlavaOnevisionForConditionalGeneration
) -> None:
    """The draft starts from the target's tower, projector, newline and embeddings."""
    draft.model.vision_tower.load_state_dict(target.model.vision_tower.state_dict())
    projector = target.model.multi_modal_projector.state_dict()
    draft.model.multi_modal_projector.load_state_dict(projector)
    with torch.no_grad():
        draft.model.image_newline.data.copy_(target.model.image_newline.data)
        draft.lm_head.weight.copy_(target.lm_head.weight)  # tied to the input embeddings
    draft.model.vision_tower.requires_grad_(False)


def logits_at(
    model: LlavaOnevisionForConditionalGeneration,
    data: Tensors,
    features: torch.Tensor,
) -> torch.Tensor:
    """(n, vocabulary) float32 logits at the trained positions."""
    hidden = hidden_states(model, data, features)[-1]
    return model.lm_head(hidden[data.labels >= 0]).float()


@torch.no_grad()
def make_example(target: LlavaOnevisionForConditionalGeneration, data: Tensors) -> Example:
    features = tower_features(target, data.pixels)
    wanted = F.log_softmax(logits_at(target, data, features), dim=-1)
    return Example(data, features, wanted)


def draft_loss(
    draft: LlavaOnevisionForConditionalGeneration, item: Example, truth: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """KL divergence from the target plus ``truth`` times cross-entropy; and values to log."""
    logits = logits_at(draft, item.data, item.features)
    ours = F.log_softmax(logits, dim=-1)
    divergence = F.kl_div(ours, item.wanted, log_target=True, reduction="batchmean")
    labels = item.data.labels[item.data.labels >= 0]
    loss = divergence + truth * F.nll_loss(ours, labels)
    with torch.no_grad():
        agree = (ours.argmax(-1) == item.wanted.argmax(-1)).float().mean()
    return loss, {"divergence": float(divergence.detach()), "agree": float(agree)}


def examples(
    target: LlavaOnevisionForConditionalGeneration,
    stream: Iterator[object],
    device: torch.device,
) -> Iterator[Example]:
    for batch in stream:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield make_example(target, to_device(batch, device))  # type: ignore[arg-type]


def train_draft(
    target: LlavaOnevisionForConditionalGeneration,
    draft: LlavaOnevisionForConditionalGeneration,
    tokenizer: Tokenizer,
    config: DraftConfig,
    seed: int,
    device: torch.device,
    out: Path,
    log: Log,
    group: Group,
) -> None:
    """Distil for a time; resumes from OUT/draft.pt."""
    target.eval().requires_grad_(False)
    copy_start(target, draft)
    spent, step, path = 0.0, 0, out / "draft.pt"
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        draft.load_state_dict(state["model"])
        draft.model.vision_tower.load_state_dict(target.model.vision_tower.state_dict())
        spent, step = state["spent"], state["step"]
        log.line(f"draft resumed step={step} time={spent:.0f}")
    optimizer = Optimizer([(1.0, list(draft.named_parameters()))], config.rates, group)
    begin, saved = time.time() - spent, time.time()
    stream = batches(tokenizer, config.batch, [seed, 17, group.rank, step])
    history: list[dict[str, float]] = []
    kept: list[Example] = []
    rng = np.random.default_rng([seed, 19, group.rank])
    draft.train()
    while (done := group.agree((time.time() - begin) / (60 * config.minutes))) < 1:
        if step % config.passes == 0 or not kept:
            kept = [*kept[-15:], next(examples(target, stream, device))]
            item = kept[-1]
        else:
            item = kept[int(rng.integers(len(kept)))]
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss, shown = draft_loss(draft, item, config.truth)
        loss.backward()
        optimizer.step(factor(done))
        history.append(shown)
        step += 1
        if step % 40 == 0:
            tokens = step * config.batch.rows * config.batch.length * group.size
            log.row("draft", step, time.time() - begin, tokens, mean_values(history))
            history.clear()
        if group.agree(time.time() - saved) > 60 * config.save_minutes:
            if group.first:
                _save(path, draft, time.time() - begin, step)
            saved = time.time()
    stream.close()  # type: ignore[attr-defined]
    if group.first:
        _save(path, draft, time.time() - begin, step)


def _save(
    path: Path, draft: LlavaOnevisionForConditionalGeneration, spent: float, step: int
) -> None:
    scratch = path.with_suffix(".new")
    torch.save({"model": draft.state_dict(), "spent": spent, "step": step}, scratch)
    scratch.rename(path)

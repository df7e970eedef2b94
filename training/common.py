"""What the training stages share: tensors of a batch, the learning-rate schedule, the log."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from training.batches import Batch, block_mask, embed


@dataclass(frozen=True)
class Tensors:
    """A batch on the device, with labels for the next token and their weights."""

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor  # (rows, length), -100 where a token is not trained
    weights: torch.Tensor  # (rows, length), of the labels
    pixels: torch.Tensor
    targets: torch.Tensor
    token_labels: torch.Tensor  # (visual tokens, labels)
    kinds: tuple[tuple[str, int], ...]
    extra: int


def to_device(batch: Batch, device: torch.device) -> Tensors:
    ids = torch.from_numpy(batch.ids)
    trained = torch.from_numpy(batch.trained)
    labels = torch.full_like(ids, -100)
    labels[:, :-1] = ids[:, 1:].masked_fill(~trained[:, 1:], -100)
    weights = torch.from_numpy(batch.weights).roll(-1, dims=1)
    return Tensors(
        ids.to(device),
        block_mask(torch.from_numpy(batch.segments).to(device)),
        torch.from_numpy(batch.positions).to(device),
        labels.to(device),
        weights.to(device),
        torch.from_numpy(batch.pixels).to(device),
        torch.from_numpy(batch.targets).to(device),
        torch.from_numpy(batch.token_labels).to(device),
        batch.kinds,
        batch.extra,
    )


def factor(done: float, warm: float = 0.015) -> float:
    """The learning-rate factor at a fraction of the time: warm-up, plateau, linear to zero."""
    return min(1.0, done / warm + 0.05, 1.6 * (1.0 - done) + 0.005)


def hidden_states(
    model: LlavaOnevisionForConditionalGeneration, data: Tensors, features: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """(rows, length, hidden) after the embeddings, after each layer, and last after the norm."""
    embedded = embed(model, data.ids, features, data.kinds)
    hidden: tuple[torch.Tensor, ...] = model.model.language_model(
        inputs_embeds=embedded,
        attention_mask=data.mask.to(embedded.dtype),
        position_ids=data.positions,
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states
    return hidden


class Log:
    """Prints lines and writes them to ``train.log``; writes numbers to ``train.csv``."""

    def __init__(self, folder: Path, quiet: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._quiet = quiet
        self.text = folder / "train.log"
        self._table = folder / "train.csv"

    def line(self, text: str) -> None:
        if self._quiet:
            return
        print(text, flush=True)
        with self.text.open("a", encoding="utf-8") as out:
            out.write(text + "\n")

    def row(
        self, stage: str, step: int, seconds: float, tokens: int, values: dict[str, float]
    ) -> None:
        shown = " ".join(f"{name}={value:.4f}" for name, value in values.items())
        if self._quiet:
            return
        self.line(f"{stage} step={step} time={seconds:.0f} tokens={tokens} {shown}")
        fresh = not self._table.exists()
        with self._table.open("a", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            if fresh:
                writer.writerow(["stage", "step", "seconds", "tokens", "name", "value"])
            for name, value in values.items():
                writer.writerow([stage, step, round(seconds, 1), tokens, name, round(value, 5)])


def mean_values(history: list[dict[str, float]]) -> dict[str, float]:
    return {k: float(np.mean([h[k] for h in history if k in h])) for k in history[-1]}

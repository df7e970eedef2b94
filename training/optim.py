"""Muon for hidden matrices and AdamW for other parameters, with one learning-rate factor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from training.parallel import Group


@dataclass(frozen=True)
class Rates:
    """Peak learning rates."""

    matrices: float = 3e-3
    others: float = 2e-3


class Optimizer:
    """Both optimizers behind one `step(factor)`."""

    def __init__(
        self,
        groups: Iterable[tuple[float, Iterable[tuple[str, nn.Parameter]]]],
        rates: Rates,
        among: Group | None = None,
    ) -> None:
        """Each group is a factor on the rates and its named parameters.

        Matrices are divided among the processes: each updates its own and broadcasts them.
        """
        self._among = among or Group()
        self._matrices: list[nn.Parameter] = []
        matrices: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for scale, named in groups:
            live = [(name, p) for name, p in named if p.requires_grad]
            hidden = [p for name, p in live if p.ndim == 2 and not _is_table(name)]
            rest = [p for name, p in live if p.ndim != 2 or _is_table(name)]
            at = len(self._matrices)
            self._matrices += hidden
            mine = [p for i, p in enumerate(hidden, at) if self._among.owned(i)]
            matrices.append({"params": mine, "peak": rates.matrices * scale})
            others.append({"params": rest, "peak": rates.others * scale})
        self._parameters = self._matrices + [p for group in others for p in group["params"]]
        self._all = [
            torch.optim.Muon(
                [g for g in matrices if g["params"]],
                lr=rates.matrices,
                weight_decay=0.01,
                momentum=0.95,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(
                [g for g in others if g["params"]],
                lr=rates.others,
                betas=(0.9, 0.98),
                weight_decay=0.0,
            ),
        ]

    def step(self, factor: float, clip: float = 1.0) -> float:
        """Clip gradients, step with rates at ``factor`` of their peak, and clear the gradients.

        Returns:
            The norm of the gradients before clipping.
        """
        self._among.mean_gradients(self._parameters)
        norm = float(nn.utils.clip_grad_norm_(self._parameters, clip))
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None
        self._among.share(self._matrices)
        return norm

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Load the moments; the peak rates stay those of this optimizer."""
        for optimizer, state in zip(self._all, states, strict=True):
            peaks = [group["peak"] for group in optimizer.param_groups]
            optimizer.load_state_dict(state)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["peak"] = peak


def _is_table(name: str) -> bool:
    """Embeddings and classifiers, which AdamW trains."""
    return any(part in name for part in ("embed", "lm_head", "out.weight", "out.bias"))

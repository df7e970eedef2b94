"""Ways to make few rows of a picture's many, each a module (n, size) -> (m, size).

Every branch is given the rows of one picture and gives, with its rows, the place within the picture
whose rotary position each of them takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sage_core.drafts.head.config import HeadConfig

Compressed = tuple[Tensor, Tensor]
"""Rows (m, size), and int64 (m,) the place in the picture whose position each takes."""


def run_edges(n: int, ratio: float) -> list[int]:
    """Where the runs of ``ratio`` rows begin among ``n``, and their end: ceil(n / ratio) + 1."""
    count = math.ceil(n / ratio)
    return [*(math.floor(run * ratio) for run in range(count)), n]


class Prune(nn.Module):
    """Keeps the most salient rows, at their own places.

    A row's salience is the logarithm of its length plus a learned score. What is kept is scaled
    by twice the score's sigmoid, 1 before training, so that the score learns.
    """

    def __init__(self, size: int, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio
        self.score = nn.Linear(size, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, rows: Tensor) -> Compressed:
        score = self.score(rows)[:, 0]
        length = rows.detach().float().norm(dim=-1).clamp_min(1e-9)
        salience = length.log() + score.detach().float()
        count = math.ceil(len(rows) / self.ratio)
        places = salience.topk(count).indices.sort().values
        return rows[places] * (2 * score[places, None].sigmoid()), places


class Pool(nn.Module):
    """The mean of each run of ``ratio`` rows, at the place of the run's last."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, rows: Tensor) -> Compressed:
        edges = run_edges(len(rows), self.ratio)
        means = [rows[a:b].mean(dim=0) for a, b in pairwise(edges)]
        return torch.stack(means), _last(edges, rows)


class Convolution(nn.Module):
    """A convolution over each run of ``ratio`` rows; pooling before it is trained.

    A last run that is shorter is filled up with its mean.
    """

    def __init__(self, size: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.convolution = nn.Conv1d(size, size, ratio, stride=ratio, bias=False)
        with torch.no_grad():
            eye = torch.eye(size) / ratio
            self.convolution.weight.copy_(eye[:, :, None].expand(-1, -1, ratio))

    def forward(self, rows: Tensor) -> Compressed:
        edges = run_edges(len(rows), self.ratio)
        short = edges[-1] - edges[-2]
        if short < self.ratio:
            rest = rows[edges[-2] :].mean(dim=0, keepdim=True)
            filled = torch.cat([rows, rest.expand(self.ratio - short, -1)])
        else:
            filled = rows
        return self.convolution(filled.T[None])[0].T, _last(edges, rows)


class Resampler(nn.Module):
    """Learned queries over a picture's rows: one cross-attention layer, at the picture's end.

    Values pass through unchanged before it is trained.
    """

    def __init__(self, size: int, queries: int, heads: int) -> None:
        super().__init__()
        self.heads = heads if size % heads == 0 else 1
        self.queries = nn.Parameter(torch.randn(queries, size))
        self.norm = nn.RMSNorm(size)
        self.query, self.key, self.value, self.out = (
            nn.Linear(size, size, bias=False) for _ in range(4)
        )
        for linear in (self.value, self.out):
            nn.init.eye_(linear.weight)

    def forward(self, rows: Tensor) -> Compressed:
        query = self._split(self.query(self.queries))
        key = self._split(self.key(self.norm(rows)))
        mixed = F.scaled_dot_product_attention(query, key, self._split(self.value(rows)))
        merged = mixed[0].transpose(0, 1).reshape(len(self.queries), -1)
        places = torch.full((len(self.queries),), len(rows) - 1, device=rows.device)
        return self.out(merged), places

    def _split(self, rows: Tensor) -> Tensor:
        """(n, size) -> (1, heads, n, size / heads)."""
        return rows.reshape(len(rows), self.heads, -1).transpose(0, 1)[None]


class Drop(nn.Module):
    """Leaves nothing of a picture: the draft reads the text alone."""

    def forward(self, rows: Tensor) -> Compressed:
        return rows[:0], torch.zeros(0, dtype=torch.int64, device=rows.device)


class Compressor(nn.Module):
    """SpecVLM's elastic compressor (Huang et al., arXiv 2509.11815): branches and their gate.

    The gate reads the question, the mean of the text's embeddings. ``weighted`` sums branches of
    one ratio by it, ``select`` takes the branch that it prefers, ``concat`` and a branch alone
    have none.
    """

    def __init__(self, config: HeadConfig, heads: int) -> None:
        super().__init__()
        size = config.hidden_size
        self.mode = config.mode
        self.branches = nn.ModuleDict(
            {name: _branch(config, name, heads) for name in config.branches}
        )
        self.gate = nn.Linear(size, len(config.branches)) if self.gated else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    @property
    def gated(self) -> bool:
        return self.mode in ("weighted", "select")

    def weights(self, question: Tensor, *, training: bool = False) -> Tensor | None:
        """(branches,) what each branch counts; None without a gate.

        Args:
            question: (size,) the mean of the question's embeddings.
            training: ``select`` draws (Gumbel-Softmax, straight through) instead of choosing.
        """
        if self.gate is None:
            return None
        logits = self.gate(question)
        if self.mode == "weighted":
            return logits.softmax(dim=-1)
        if training:
            return F.gumbel_softmax(logits.float(), hard=True).to(logits.dtype)
        return F.one_hot(logits.argmax(), len(logits)).to(logits.dtype)

    def forward(self, rows: Tensor, weights: Tensor | None) -> Compressed:
        """One picture's rows (n, size), with what `weights` gave for the prompt."""
        if self.mode == "select":
            assert weights is not None
            chosen = int(weights.argmax())
            kept, places = list(self.branches.values())[chosen](rows)
            return kept * weights[chosen], places
        parts = [branch(rows) for branch in self.branches.values()]
        if weights is None:
            return torch.cat([kept for kept, _ in parts]), torch.cat([at for _, at in parts])
        stacked = torch.stack([kept for kept, _ in parts])
        return (weights[:, None, None] * stacked).sum(dim=0), parts[-1][1]


def _branch(config: HeadConfig, name: str, heads: int) -> nn.Module:
    size = config.hidden_size
    if name == "resampler":
        return Resampler(size, config.queries, heads)
    if name == "text":
        return Drop()
    ratio = config.ratio_of(name)
    if name == "prune":
        return Prune(size, ratio)
    return Pool(ratio) if name == "pool" else Convolution(size, int(ratio))


def _last(edges: Sequence[int], rows: Tensor) -> Tensor:
    """The place of each run's last row."""
    return torch.tensor([edge - 1 for edge in edges[1:]], device=rows.device)

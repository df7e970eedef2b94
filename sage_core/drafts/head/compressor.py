"""Compression of the visual tokens of one image, by modules (n, size) -> (m, size).

Each returns, with its outputs, the index of the visual token whose rotary position an output takes.
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
"""Outputs (m, size), and int64 (m,) the index in the image whose position each takes."""


def run_edges(n: int, ratio: float) -> list[int]:
    """Bounds of the runs of ``ratio`` tokens among ``n``: ceil(n / ratio) + 1 indices."""
    count = math.ceil(n / ratio)
    return [*(math.floor(run * ratio) for run in range(count)), n]


class Prune(nn.Module):
    """Keeps the most salient tokens, at their own positions.

    Salience is the logarithm of the token's norm plus a learned score. Outputs are scaled by twice
    the score's sigmoid (1 before training), which gives the score a gradient.
    """

    def __init__(self, size: int, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio
        self.score = nn.Linear(size, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, tokens: Tensor) -> Compressed:
        score = self.score(tokens)[:, 0]
        length = tokens.detach().float().norm(dim=-1).clamp_min(1e-9)
        salience = length.log() + score.detach().float()
        count = math.ceil(len(tokens) / self.ratio)
        places = salience.topk(count).indices.sort().values
        return tokens[places] * (2 * score[places, None].sigmoid()), places


class Pool(nn.Module):
    """The mean of each run of ``ratio`` tokens, at the position of its last."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, tokens: Tensor) -> Compressed:
        edges = run_edges(len(tokens), self.ratio)
        means = [tokens[a:b].mean(dim=0) for a, b in pairwise(edges)]
        return torch.stack(means), _last(edges, tokens)


class Convolution(nn.Module):
    """A convolution over each run of ``ratio`` tokens, initialized as mean pooling.

    A last run that is shorter is padded with its mean.
    """

    def __init__(self, size: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.convolution = nn.Conv1d(size, size, ratio, stride=ratio, bias=False)
        with torch.no_grad():
            eye = torch.eye(size) / ratio
            self.convolution.weight.copy_(eye[:, :, None].expand(-1, -1, ratio))

    def forward(self, tokens: Tensor) -> Compressed:
        edges = run_edges(len(tokens), self.ratio)
        short = edges[-1] - edges[-2]
        if short < self.ratio:
            rest = tokens[edges[-2] :].mean(dim=0, keepdim=True)
            tokens = torch.cat([tokens, rest.expand(self.ratio - short, -1)])
        return self.convolution(tokens.T[None])[0].T, _last(edges, tokens)


class Resampler(nn.Module):
    """Learned queries over an image's tokens: one cross-attention layer, at the image's end.

    Value and output projections are initialized as the identity.
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

    def forward(self, tokens: Tensor) -> Compressed:
        query = self._split(self.query(self.queries))
        key = self._split(self.key(self.norm(tokens)))
        mixed = F.scaled_dot_product_attention(query, key, self._split(self.value(tokens)))
        merged = mixed[0].transpose(0, 1).reshape(len(self.queries), -1)
        places = torch.full((len(self.queries),), len(tokens) - 1, device=tokens.device)
        return self.out(merged), places

    def _split(self, tokens: Tensor) -> Tensor:
        """(n, size) -> (1, heads, n, size / heads)."""
        return tokens.reshape(len(tokens), self.heads, -1).transpose(0, 1)[None]


class Drop(nn.Module):
    """Drops all visual tokens: the draft reads text only."""

    def forward(self, tokens: Tensor) -> Compressed:
        return tokens[:0], torch.zeros(0, dtype=torch.int64, device=tokens.device)


class Compressor(nn.Module):
    """SpecVLM's elastic compressor (Huang et al., arXiv 2509.11815): branches and their gate.

    The gate reads the mean of the text's embeddings. ``weighted`` sums branches of one ratio by
    the gate's weights and ``select`` takes the branch of the largest weight; ``concat`` and a
    branch alone have no gate.
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
        """(branches,) weights of the branches; None without a gate.

        Args:
            question: (size,) the mean of the question's embeddings.
            training: ``select`` samples (straight-through Gumbel-Softmax).
        """
        if self.gate is None:
            return None
        logits = self.gate(question)
        if self.mode == "weighted":
            return logits.softmax(dim=-1)
        if training:
            return F.gumbel_softmax(logits.float(), hard=True).to(logits.dtype)
        return F.one_hot(logits.argmax(), len(logits)).to(logits.dtype)

    def forward(self, tokens: Tensor, weights: Tensor | None) -> Compressed:
        """One image's tokens (n, size) compressed, with `weights` of the prompt."""
        if self.mode == "select":
            assert weights is not None
            chosen = int(weights.argmax())
            kept, places = list(self.branches.values())[chosen](tokens)
            return kept * weights[chosen], places
        parts = [branch(tokens) for branch in self.branches.values()]
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


def _last(edges: Sequence[int], tokens: Tensor) -> Tensor:
    """The index of each run's last token."""
    return torch.tensor([edge - 1 for edge in edges[1:]], device=tokens.device)

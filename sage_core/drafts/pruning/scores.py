"""Scores of visual tokens from the target's prefill.

No second pass and no attention matrix of the prompt: each call of scaled dot-product attention is
observed, and only the rows of the text after the visual tokens are computed again, a few heads at a
time. The model and its outputs are unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sage_core.runtime.attention.observe import observe_attention

BUDGET = 64 * 1024**2
"""Most bytes of attention weights held at once."""


class AttentionScores:
    """Mean attention of the text after the visual tokens to each of them (SpecVLM, stage I).

    The mean is over layers, heads and query tokens, of the softmax over the whole prompt.

    Args:
        visual: int64 (n,) ascending positions of the visual tokens in the prompt.
        prompt_tokens: length of the prompt; the queries are the tokens after the last of
            ``visual``.
    """

    def __init__(self, visual: Tensor, prompt_tokens: int) -> None:
        self._visual = visual.cpu()
        self._length = prompt_tokens
        self._first = int(visual[-1]) + 1
        self._sum = torch.zeros(len(visual))
        self._layers = 0

    @property
    def scores(self) -> Tensor | None:
        """float32 (n,) on the CPU; None if no attention was observed."""
        return self._sum / self._layers if self._layers else None

    @contextmanager
    def observing(self, decoder: Any) -> Iterator[None]:
        """While open, add up scores in forwards of ``decoder`` over the prompt."""
        with observe_attention(decoder, self.add):
            yield

    def add(self, query: Tensor, key: Tensor, scale: float | None) -> None:
        """Add one layer's attention: (1, heads, n, size) queries and keys, after rotation."""
        if query.shape[-2] != self._length or key.shape[-2] != self._length:
            return
        rows = query[0, :, self._first :].float()
        heads, count, size = rows.shape
        group = heads // key.shape[1]
        visual = self._visual.to(query.device)
        ahead = torch.ones(count, count, dtype=torch.bool, device=query.device).triu(1)
        total = torch.zeros(len(visual), device=query.device)
        step = max(1, BUDGET // (4 * self._length * group))
        for shared, keys in enumerate(key[0]):
            asking = rows[shared * group : (shared + 1) * group] * (scale or size**-0.5)
            across = keys.float().T
            for start in range(0, count, step):
                part = slice(start, start + step)
                weights = asking[:, part] @ across
                weights[..., self._first :].masked_fill_(ahead[part], -torch.inf)
                total += weights.softmax(dim=-1)[..., visual].sum(dim=(0, 1))
        self._sum += (total / (heads * count)).cpu()
        self._layers += 1


class AlignmentScores:
    """The increase of each visual token's similarity to the text through the layers.

    After ParallelVLM (arXiv 2603.19610): attention has a bias by position, which cancels in a
    difference of layers. The similarity is the cosine between a visual token's hidden state and the
    mean of the text after the visual tokens, both less the mean visual state. The score is its mean
    over the last third of the layers minus that over the first third. Arguments as for
    `AttentionScores`.
    """

    def __init__(self, visual: Tensor, prompt_tokens: int) -> None:
        self._visual = visual.cpu()
        self._length = prompt_tokens
        self._first = int(visual[-1]) + 1
        self._similarities: list[Tensor] = []

    @property
    def scores(self) -> Tensor | None:
        """float32 (n,) on the CPU; None if no layers were observed."""
        third = len(self._similarities) // 3
        if not third:
            return None
        late, early = self._similarities[-third:], self._similarities[:third]
        return torch.stack(late).mean(0) - torch.stack(early).mean(0)

    @contextmanager
    def observing(self, decoder: Any) -> Iterator[None]:
        """While open, record similarities in forwards of ``decoder`` over the prompt."""

        def record(_module: Any, args: Any, kwargs: Any) -> None:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            if hidden.shape[1] == self._length:
                self._similarities.append(self._similarity(hidden[0]))

        handles = [
            layer.register_forward_pre_hook(record, with_kwargs=True) for layer in decoder.layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _similarity(self, hidden: Tensor) -> Tensor:
        visual = hidden[self._visual.to(hidden.device)].float()
        mean = visual.mean(dim=0)
        text = hidden[self._first :].float().mean(dim=0) - mean
        return F.cosine_similarity(visual - mean, text[None], dim=-1).cpu()

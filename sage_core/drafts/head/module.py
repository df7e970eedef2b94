"""The head itself: what it reads of a prompt and of later text, and its one decoder layer.

A row stands for one token of the text. It is made of the target's feature before the token (the
decoder's last hidden state, after the final norm) and of the token's own embedding; the head's
decoder predicts from it the feature at the token, which the target's own output head turns into
logits of the next one: EAGLE's order, with SpecVLM's norm of both inputs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sage_core.drafts.head.compressor import Compressor, Resampler
from sage_core.drafts.head.config import HeadConfig
from sage_core.errors import ModelError
from sage_core.trees.policy import BIASES


@dataclass(frozen=True, eq=False)
class HeadPrompt:
    """A prompt as the head's decoder takes it."""

    inputs: Tensor
    """(1, m, size): its rows, pictures compressed."""
    positions: Tensor
    """(1, m) or (axes, 1, m): their rotary positions."""
    joined: Tensor | None
    """(1, 1, size): what joins every later text row (``vispec``), for `Head.inputs`."""
    kept: Tensor
    """int64 (n,): where each given row is among the m; -1 for those of pictures that are
    compressed."""
    visual_rows: int
    """How many of the m stand for pictures."""


class Head(nn.Module):
    """A one-layer draft. It owns its layer and its compressor; embedding and output head are the
    target's and no part of it.

    Args:
        config: what it is.
        target_decoder_config: configuration of the target's decoder
            (``target.get_decoder().config``), which is not changed.

    Raises:
        ModelError: the sizes are not the decoder's, or transformers cannot build such a layer.
    """

    def __init__(self, config: HeadConfig, target_decoder_config: Any) -> None:
        super().__init__()
        size = int(target_decoder_config.hidden_size)
        if config.hidden_size != size:
            raise ModelError(
                f"the head is of size {config.hidden_size} and its target of size {size}: "
                "choose a head of this target"
            )
        self.config = config
        self.decoder = one_layer(target_decoder_config)
        eps = float(getattr(target_decoder_config, "rms_norm_eps", 1e-6))
        self.feature_norm = nn.RMSNorm(size, eps=eps)
        self.embed_norm = nn.RMSNorm(size, eps=eps)
        self.fuse = nn.Linear(2 * size, size, bias=False)
        with torch.no_grad():  # untrained, it gives the mean of both
            self.fuse.weight.copy_(torch.eye(size).repeat(1, 2) / 2)
        heads = int(target_decoder_config.num_attention_heads)
        self.compressor = Compressor(config, heads) if config.compresses else None
        self.looker: Resampler | None = None
        self.join: nn.Linear | None = None
        if config.kind == "vispec":
            self.looker = Resampler(size, config.queries, heads)
            self.join = nn.Linear(size, size, bias=False)
            nn.init.zeros_(self.join.weight)
        self.acceptance: nn.Linear | None = nn.Linear(size, BIASES) if config.acceptance else None
        """From a predicted feature to log odds, see `Level.acceptance`."""

    @property
    def dtype(self) -> torch.dtype:
        return self.fuse.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.fuse.weight.device

    def get_decoder(self) -> Any:
        """Its one-layer decoder, by the name that transformers' models have for theirs."""
        return self.decoder

    def acceptance_predictor(self) -> tuple[np.ndarray, np.ndarray] | None:
        """`acceptance` for predicted features on the host: float32 (size, outputs), (outputs,)."""
        if self.acceptance is None:
            return None
        layer = self.acceptance
        weight, bias = (w.detach().float().cpu().numpy() for w in (layer.weight, layer.bias))
        return np.ascontiguousarray(weight.T), bias

    def inputs(self, features: Tensor, embeds: Tensor, joined: Tensor | None = None) -> Tensor:
        """(B, n, size) rows of text.

        Args:
            features: (B, n, size) the feature before each token, the target's or predicted.
            embeds: (B, n, size) the tokens' embeddings.
            joined: `HeadPrompt.joined` of the prompt.
        """
        both = torch.cat([self.feature_norm(features), self.embed_norm(embeds)], dim=-1)
        rows: Tensor = self.fuse(both)
        return rows if joined is None else rows + joined

    def build_prompt(
        self,
        features: Tensor,
        embeds: Tensor,
        visual: Tensor,
        positions: Tensor,
        *,
        training: bool = False,
        question: Tensor | None = None,
    ) -> HeadPrompt:
        """A prompt's rows, with each picture (a run of visual tokens) compressed by itself.

        Row i is for token i + 1: ``features[:, i]`` is the target's feature of token i, all else
        is of token i + 1.

        Args:
            features: (1, n, size) the target's last hidden states before each token.
            embeds: (1, n, size) the tokens' embeddings; a picture's are what its tower gave.
            visual: bool (n,), which tokens stand for pictures.
            positions: (1, n) or (axes, 1, n), the tokens' rotary positions.
            training: gates draw rather than choose.
            question: bool (n,), which rows the gate reads; None for all text. In training it must
                leave out the answer, which is not there yet when a prompt is read.
        """
        rows = self.inputs(features, embeds)[0]
        n = len(rows)
        runs = visual_runs(visual)
        if self.config.kind == "head" or not runs:
            same = torch.arange(n, device=rows.device)
            return HeadPrompt(rows[None], positions, None, same, sum(b - a for a, b in runs))

        weights = None
        if self.compressor is not None:
            asked = ~visual if question is None else question & ~visual
            weights = self.compressor.weights(_mean(embeds[0], asked), training=training)
        pictures = [self._compressed(rows[a:b], weights) for a, b in runs]
        joined = None
        if self.join is not None:
            last = torch.stack([kept[-1] for kept, _ in pictures]).mean(dim=0)
            joined = self.join(last)[None, None]

        pieces: list[Tensor] = []
        places: list[Tensor] = []
        kept_at = torch.full((n,), -1, dtype=torch.int64, device=rows.device)
        filled = 0

        def text(start: int, end: int) -> None:
            """Text rows between pictures; those behind the first picture are joined."""
            nonlocal filled
            part = rows[start:end]
            behind = start >= runs[0][1]
            pieces.append(part + joined[0] if joined is not None and behind else part)
            places.append(torch.arange(start, end, device=rows.device))
            kept_at[start:end] = torch.arange(filled, filled + end - start, device=rows.device)
            filled += end - start

        at = 0
        for (start, end), (shown, where) in zip(runs, pictures, strict=True):
            text(at, start)
            pieces.append(shown)
            places.append(where + start)
            filled += len(shown)
            at = end
        text(at, n)
        return HeadPrompt(
            torch.cat(pieces)[None],
            positions[..., torch.cat(places).to(positions.device)],
            joined,
            kept_at,
            sum(len(shown) for shown, _ in pictures),
        )

    def _compressed(self, rows: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """One picture's rows and the places whose positions they take.

        A small picture that SpecVLM's branches would not make shorter is left as it is.
        """
        if self.compressor is not None:
            shown, where = self.compressor(rows, weights)
            if len(shown) >= len(rows):
                return rows, torch.arange(len(rows), device=rows.device)
        else:
            assert self.looker is not None
            shown, where = self.looker(rows)
        return shown, where


def one_layer(decoder_config: Any) -> Any:
    """A decoder of the class that ``decoder_config`` names, with one layer and no embedding.

    Raises:
        ModelError: transformers cannot build it from its configuration alone.
    """
    from transformers import AutoModel

    config = copy.deepcopy(decoder_config)
    kinds = getattr(config, "layer_types", None)
    config.num_hidden_layers = 1
    if kinds:
        config.layer_types = list(kinds)[-1:]
    # Its embedding would be as large as the layer, and is the target's own: never made.
    config.vocab_size, config.pad_token_id = 1, None
    try:
        decoder = AutoModel.from_config(config)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"no head can be made for {type(decoder_config).__name__}: {error}: use a draft model"
        ) from error
    decoder.embed_tokens = None
    return decoder


def visual_runs(visual: Tensor) -> list[tuple[int, int]]:
    """The runs of True in bool (n,), as (start, end)."""
    marks = visual.to("cpu", torch.int8)
    edge = marks.new_zeros(1)
    steps = torch.cat([edge, marks, edge]).diff()
    starts, ends = (steps == 1).nonzero()[:, 0], (steps == -1).nonzero()[:, 0]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _mean(embeds: Tensor, rows: Tensor) -> Tensor:
    """The mean (size,) of the marked rows of (n, size); zero if there are none."""
    if not bool(rows.any()):
        return embeds.new_zeros(embeds.shape[-1])
    return embeds[rows.nonzero()[:, 0]].mean(dim=0)

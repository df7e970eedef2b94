"""The head module: the inputs of its one decoder layer, for a prompt and for later tokens.

The input at a token is made of the target's feature before the token (the decoder's last hidden
state, after the final norm) and of the token's own embedding. The head's decoder predicts the
feature at the token, from which the target's output head computes the logits of the next one, as
in EAGLE (arXiv 2401.15077), with SpecVLM's norm of both inputs (arXiv 2509.11815).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sage_core.drafts.head.compressor import Compressed, Compressor, Resampler
from sage_core.drafts.head.config import HeadConfig
from sage_core.errors import ModelError
from sage_core.runtime.windows import LayerKinds
from sage_core.trees.policy import BIASES


@dataclass(frozen=True, eq=False)
class HeadPrompt:
    """A prompt as input of the head's decoder."""

    inputs: Tensor
    """(1, m, size), with images compressed."""
    positions: Tensor
    """(1, m) or (axes, 1, m): their rotary positions."""
    global_feature: Tensor | None
    """(1, 1, size): added to the inputs of later text (``vispec``), for `Head.inputs`."""
    kept: Tensor
    """int64 (n,): the index of each token among the m inputs; -1 in compressed images."""
    visual_inputs: int
    """How many of the m are of images."""


class Head(nn.Module):
    """A one-layer draft. Embedding and output head are the target's and not part of it.

    Args:
        config: its options.
        target_decoder_config: ``target.get_decoder().config``; not changed.

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
        with torch.no_grad():  # the mean of both before training
            self.fuse.weight.copy_(torch.eye(size).repeat(1, 2) / 2)
        heads = int(target_decoder_config.num_attention_heads)
        self.compressor = Compressor(config, heads) if config.compresses else None
        # The names `looker` and `join` are part of the file format.
        self.looker: Resampler | None = None
        self.join: nn.Linear | None = None
        if config.kind == "vispec":
            self.looker = Resampler(size, config.queries, heads)
            self.join = nn.Linear(size, size, bias=False)
            nn.init.zeros_(self.join.weight)
        self.acceptance: nn.Linear | None = nn.Linear(size, BIASES) if config.acceptance else None
        """From a predicted feature to log odds of acceptance, see `Level.acceptance`."""

    @property
    def dtype(self) -> torch.dtype:
        return self.fuse.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.fuse.weight.device

    def get_decoder(self) -> Any:
        """The one-layer decoder, as transformers' models name the accessor."""
        return self.decoder

    def acceptance_predictor(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Weight (size, outputs) and bias (outputs,) of `acceptance`: float32 on the host."""
        if self.acceptance is None:
            return None
        layer = self.acceptance
        weight, bias = (w.detach().float().cpu().numpy() for w in (layer.weight, layer.bias))
        return np.ascontiguousarray(weight.T), bias

    def inputs(
        self, features: Tensor, embeds: Tensor, global_feature: Tensor | None = None
    ) -> Tensor:
        """(B, n, size) decoder inputs of text.

        Args:
            features: (B, n, size) the feature before each token, the target's or predicted.
            embeds: (B, n, size) the tokens' embeddings.
            global_feature: `HeadPrompt.global_feature` of the prompt.
        """
        both = torch.cat([self.feature_norm(features), self.embed_norm(embeds)], dim=-1)
        inputs: Tensor = self.fuse(both)
        return inputs if global_feature is None else inputs + global_feature

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
        """A prompt's decoder inputs, with each image (a run of visual tokens) compressed alone.

        Input i is of token i + 1: ``features[:, i]`` is the target's feature of token i, all else
        is of token i + 1.

        Args:
            features: (1, n, size) the target's last hidden states before each token.
            embeds: (1, n, size) the tokens' embeddings, of images the vision tower's outputs.
            visual: bool (n,), which tokens are visual.
            positions: (1, n) or (axes, 1, n), the tokens' rotary positions.
            training: gates sample instead of taking the maximum.
            question: bool (n,), which tokens the gate reads; None for all text. In training it must
                exclude the answer, which a prompt does not contain.
        """
        inputs = self.inputs(features, embeds)[0]
        n = len(inputs)
        runs = visual_runs(visual)
        if self.config.kind == "head" or not runs:
            kept = torch.arange(n, device=inputs.device)
            return HeadPrompt(inputs[None], positions, None, kept, sum(b - a for a, b in runs))

        weights = None
        if self.compressor is not None:
            asked = ~visual if question is None else question & ~visual
            weights = self.compressor.weights(_mean(embeds[0], asked), training=training)
        images = [self._compressed(inputs[a:b], weights) for a, b in runs]
        global_feature = None
        if self.join is not None:
            last = torch.stack([outputs[-1] for outputs, _ in images]).mean(dim=0)
            global_feature = self.join(last)[None, None]

        parts: list[Tensor] = []
        places: list[Tensor] = []
        kept = torch.full((n,), -1, dtype=torch.int64, device=inputs.device)
        length = 0
        # Text and images alternate, text first; it may be empty.
        edges = [0, *(edge for run in runs for edge in run), n]
        for number, (start, end) in enumerate(pairwise(edges)):
            if number % 2:
                part, where = images[number // 2]
                where = where + start
            else:
                part, where = inputs[start:end], torch.arange(start, end, device=inputs.device)
                if number and global_feature is not None:
                    part = part + global_feature[0]
                kept[start:end] = where + (length - start)
            parts.append(part)
            places.append(where)
            length += len(part)
        return HeadPrompt(
            torch.cat(parts)[None],
            positions[..., torch.cat(places).to(positions.device)],
            global_feature,
            kept,
            sum(len(outputs) for outputs, _ in images),
        )

    def _compressed(self, inputs: Tensor, weights: Tensor | None) -> Compressed:
        """One image (n, size) compressed; left as it is if that would not make it shorter."""
        if self.compressor is None:
            assert self.looker is not None
            return self.looker(inputs)
        outputs, where = self.compressor(inputs, weights)
        if len(outputs) >= len(inputs):
            return inputs, torch.arange(len(inputs), device=inputs.device)
        return outputs, where


def attending_layer(config: Any) -> int:
    """The last layer of a decoder with ``config`` that holds keys and values, not a state."""
    return LayerKinds.of(config).attending_layers[-1]


def one_layer(decoder_config: Any) -> Any:
    """A decoder of the class of ``decoder_config``, with one layer and no embedding.

    Raises:
        ModelError: transformers cannot build it from its configuration.
    """
    from transformers import AutoModel

    config = copy.deepcopy(decoder_config)
    kinds = getattr(config, "layer_types", None)
    config.num_hidden_layers = 1
    if kinds:
        config.layer_types = [kinds[attending_layer(decoder_config)]]
    # The embedding is the target's: none is allocated.
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


def _mean(embeds: Tensor, chosen: Tensor) -> Tensor:
    """The mean (size,) of (n, size) where bool (n,) ``chosen``; zero if nowhere."""
    if not bool(chosen.any()):
        return embeds.new_zeros(embeds.shape[-1])
    return embeds[chosen.nonzero()[:, 0]].mean(dim=0)

"""The parts of a model: its text decoder, and what makes logits of hidden states."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["decoder_of", "output_head"]


def decoder_of(model: Any) -> Any:
    """The stack of decoder layers; `get_decoder` of some classes gives a model with a head."""
    decoder = model.get_decoder()
    return decoder.model if hasattr(decoder, "lm_head") else decoder


def output_head(model: Any) -> Callable[[Tensor], Tensor]:
    """The output layer, (n, hidden) -> (n, vocabulary), with the scale and the cap that follow it.

    They are named in the configuration: ``final_logit_softcapping`` (Gemma), ``logits_scaling``
    (Granite), ``logit_scale`` (Cohere); some classes ignore them. `engine.trial` finds others.
    """
    layer: Callable[[Tensor], Tensor] = model.get_output_embeddings()
    scale = _used(model, "logit_scale") or 1.0
    divisor = _used(model, "logits_scaling") or 1.0
    cap = _used(model, "final_logit_softcapping")
    if cap is None and scale == divisor == 1.0:
        return layer

    def logits(hidden: Tensor) -> Tensor:
        scores = layer(hidden)
        if divisor != 1.0:
            scores = scores / divisor
        if scale != 1.0:
            scores = scores * scale
        return scores if cap is None else torch.tanh(scores / cap) * cap

    return logits


def _used(model: Any, name: str) -> float | None:
    """A number of the text configuration that the class's own forward reads."""
    if name not in inspect.unwrap(type(model).forward).__code__.co_names:
        return None
    value = getattr(model.config.get_text_config(decoder=True), name, None)
    return float(value) if isinstance(value, int | float) and value else None

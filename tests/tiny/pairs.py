"""Tiny random targets, and drafts that are nearly right, always right, always wrong or garbage."""

from __future__ import annotations

import copy
import math
import re
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from tests.tiny.families import EOS, FAMILIES, FIRST_WORD, PAD

TARGET_LAYERS = 3
_LATER_LAYER = re.compile(r"(?<!visual)\.layers\.[1-9].*(o_proj|down_proj)")
"""Layers that the draft lacks speak more softly, or it would hardly ever be right."""


class Pair(NamedTuple):
    """Two models of one family, float32, in eval mode, on the CPU."""

    target: Any
    draft: Any


def _randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Weights large enough that logits are peaked and depend on the context.

    transformers' own initialisation (std 0.02) gives nearly flat logits, whose greedy text repeats
    one token for ever and so tests little.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2:
                if "norm" not in name:
                    weight.normal_(0.0, 0.1, generator=generator)
                continue
            weight.normal_(0.0, 1.0 / math.sqrt(weight.shape[-1]), generator=generator)
            if "embed_tokens" in name:
                weight.normal_(0.0, 1.0, generator=generator)
            elif name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(1.5)
            elif name == "lm_head.weight":
                weight.mul_(3.0)
            elif _LATER_LAYER.search(name):
                weight.mul_(0.6)


def _mute_special_tokens(model: Any) -> None:
    """No special token is ever the likeliest: its logit is always 0, below the best word's."""
    with torch.no_grad():
        model.lm_head.weight[:FIRST_WORD] = 0.0


def _finish(model: Any) -> Any:
    model.generation_config.eos_token_id = EOS
    model.generation_config.pad_token_id = PAD
    return model.eval()


def _build(family: str, layers: int, seed: int) -> Any:
    spec = FAMILIES[family]
    torch.manual_seed(seed)
    config = spec.config(layers)
    config._attn_implementation = "sdpa"
    model = spec.model(config)
    _randomise(model, torch.Generator().manual_seed(seed))
    _mute_special_tokens(model)
    return _finish(model)


@lru_cache(maxsize=32)
def build_pair(family: str, seed: int = 0, noise: float = 0.05) -> Pair:
    """A target of three layers, and a draft made of its first layer, blurred.

    The draft takes everything it has in common with the target (embedding, head, vision tower,
    first layer) plus noise of ``noise`` times each weight's own standard deviation, so that it is
    right often and wrong often. Do not change the models: they are shared by all tests.
    """
    target = _build(family, TARGET_LAYERS, seed)
    draft = _build(family, 1, seed + 1)
    generator = torch.Generator().manual_seed(seed + 2)
    shared = target.state_dict()
    blurred = {}
    for name in draft.state_dict():
        source = shared[name]
        if source.is_floating_point() and source.dim() > 1 and source.numel() > 1:
            blur = torch.randn(source.shape, generator=generator) * source.std() * noise
            blurred[name] = source + blur
        else:
            blurred[name] = source.clone()
    draft.load_state_dict(blurred)
    _mute_special_tokens(draft)
    return Pair(target, draft)


def perfect_draft(target: Any) -> Any:
    """A draft that is the target itself, in weights of its own: always right."""
    return copy.deepcopy(target)


def wrong_draft(target: Any) -> Any:
    """A draft that prefers what the target thinks least likely: always wrong."""
    draft = copy.deepcopy(target)
    with torch.no_grad():
        draft.lm_head.weight.neg_()
    return draft


def garbage_draft(family: str, seed: int = 99) -> Any:
    """A draft with random weights that have nothing to do with any target."""
    return _build(family, 1, seed)

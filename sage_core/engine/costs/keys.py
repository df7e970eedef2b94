"""The keys of stored costs and acceptance: everything that they depend on."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import torch
from torch import nn

from sage_core.engine.costs.calibration import CostKeys
from sage_core.engine.settings import DecoderSettings
from sage_core.models.devices import processor
from sage_core.models.parts import decoder_of
from sage_core.runtime.runner import Runner
from sage_core.trees.policies import spec


def cost_keys(settings: DecoderSettings, target: Runner) -> CostKeys:
    """The keys of a decoder; ``target`` is its runner after the prefill."""
    return CostKeys(pass_key(settings, target), pair_key(settings), target.committed)


def pass_key(settings: DecoderSettings, target: Runner) -> str:
    """The key of pass costs: processor, threads, execution, models, formats, batch."""
    where = f"{processor()} x{torch.get_num_threads()}"
    if target.device.type == "cuda":
        where = torch.cuda.get_device_name(target.device)
    parts = [where, target.executor.name]
    if settings.batch > 1:
        parts.append(f"batches of {settings.batch}")
    # A reduced vocabulary makes draft passes cheaper.
    if (vocabulary := settings.extension("draft_vocab")) is not None:
        parts.append(f"draft of {vocabulary}")
    draft = _described(settings.draft)
    elsewhere = getattr(settings.draft, "device", target.device)
    if elsewhere != target.device:
        draft += f" on {elsewhere}"
    return ", ".join([*parts, _described(settings.target), draft, torch.__version__])


def pair_key(settings: DecoderSettings) -> str:
    """The key of acceptance: policy, options, models and some of their weights."""
    models = [f"{_described(m)} {_weights(m)}" for m in (settings.target, settings.draft)]
    options = [f"{one.name} {one}" for one in settings.extensions]
    if settings.candidates != "topk":
        options.append(f"candidates {settings.candidates}")
    return f"{spec(settings.policy)}: {', '.join([*models, *options])}"


def _described(model: Any) -> str:
    """A model's kind, size and number format: ``Qwen2ForCausalLM 28x3584 bfloat16``."""
    config = decoder_of(model).config
    size = f"{config.num_hidden_layers}x{config.hidden_size}"
    quantized = getattr(getattr(model, "config", None), "quantization_config", None)
    if quantized is not None:
        found = quantized if isinstance(quantized, dict) else quantized.to_dict()
        method = found.get("quant_method")
        fields = json.dumps(found, default=str, sort_keys=True)
        size += f" {getattr(method, 'value', method)} {_digest(fields.encode())}"
    return f"{type(model).__name__} {size} {str(model.dtype).removeprefix('torch.')}"


@torch.no_grad()
def _weights(model: Any) -> str:
    """A digest of some weights, to distinguish models of one shape; empty if all are quantized."""
    matrices = [
        w
        for w in decoder_of(model).parameters()
        if type(w) is nn.Parameter and w.dim() == 2 and not w.is_meta
    ]
    if not matrices:
        return ""
    return _digest(matrices[-1][:4].float().cpu().numpy().tobytes())


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:12]

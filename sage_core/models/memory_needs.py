"""What a model will take of a device's memory, told from its configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sage_core.errors import ModelError
from sage_core.models.quantization import Method, ready_made
from sage_core.models.quiet import quiet

CONTEXT = 16_384
"""Tokens of prompt and text that room is made for, or the model's longest text if that is less."""
DTYPE_BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "bfloat16": 2, "float16": 2})


@dataclass(frozen=True)
class Need:
    """Bytes of memory."""

    weights: int
    cache: int
    """Keys and values of the context."""
    work: int
    """What passes through one layer as the prompt is read, and a tree's logits."""

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.work

    def __add__(self, other: Need) -> Need:
        return Need(self.weights + other.weights, self.cache + other.cache, self.work + other.work)


@dataclass(frozen=True)
class Size:
    """Counts of one model, from which its need in any number format follows."""

    linear: int
    """Parameters of its linear layers, but for the head: what quantization shrinks."""
    others: int
    stored: int
    """Bytes of its weights as they are stored; 0 if unknown."""
    ready_made: bool
    """It is quantized as it is stored."""
    own_dtype: str
    """The number format of the checkpoint."""
    cache_values: int
    """Keys and values that a token leaves in the cache."""
    work_values: int
    """Values at work for a token while one layer reads it."""
    head_values: int
    """Size of the vocabulary."""
    context: int
    parameters: Mapping[str, int] = field(default_factory=dict, repr=False)
    """Numbers in each parameter, by its name."""

    def need(self, dtype: str, method: Method | None = None) -> Need:
        """Bytes in ``dtype`` (a name, or ``checkpoint``), quantized by ``method`` if given."""
        width = DTYPE_BYTES[self.own_dtype if dtype == "checkpoint" else dtype]
        if self.ready_made and self.stored:
            weights = self.stored
        elif method is not None:
            weights = int(self.linear * method.bits / 8) + self.others * width
        else:
            weights = (self.linear + self.others) * width
        logits = 128 * self.head_values * 4
        return Need(
            weights,
            self.cache_values * self.context * width,
            self.work_values * self.context * width + logits,
        )


def measure(name: str, config: Any, stored: int = 0, *, code: bool = False) -> Size:
    """The size of the model that ``config`` describes, built without memory for its weights.

    Args:
        name: what the user calls the model.
        config: its transformers configuration.
        stored: bytes of its files of weights, if known.
        code: whether the checkpoint's own code may run.

    Raises:
        ModelError: the configuration describes no model that writes text.
    """
    import torch
    from torch import nn

    text = config.get_text_config(decoder=True)
    try:
        with quiet(), torch.device("meta"):
            # A copy, as building writes the number format into its configuration.
            model = auto_class(config).from_config(
                deepcopy(config), dtype=torch.float32, trust_remote_code=code
            )
    except Exception as error:
        if "Unrecognized configuration class" in str(error):
            raise ModelError(f"{name}: is no model that writes text: choose another") from error
        raise ModelError(
            f"{name}: its config.json describes no model that can be built "
            f"({type(error).__name__}): get a whole copy of the model"
        ) from error
    parameters = {key: value.numel() for key, value in model.named_parameters()}
    head = model.get_output_embeddings()
    linear = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not head
    )
    total = sum(parameters.values())
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Size(
        linear=linear,
        others=total - linear,
        stored=stored,
        ready_made=ready_made(config) is not None,
        own_dtype=_own_dtype(config, text, stored, total),
        cache_values=2 * text.num_hidden_layers * heads * width,
        work_values=6 * text.hidden_size + 3 * _inner(text),
        head_values=text.vocab_size,
        context=min(CONTEXT, getattr(text, "max_position_embeddings", None) or CONTEXT),
        parameters=MappingProxyType(parameters),
    )


def auto_class(config: Any) -> Any:
    """transformers' class that loads models of that configuration: with eyes where it has them."""
    from transformers import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    seeing = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if seeing else AutoModelForCausalLM


def _inner(text: Any) -> int:
    """Width of the feed-forward layer; of the experts that a token goes to, if there are some."""
    experts = getattr(text, "moe_intermediate_size", None)
    if experts:
        return int(experts) * int(getattr(text, "num_experts_per_tok", 1) or 1)
    return int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size)


def _own_dtype(config: Any, text: Any, stored: int, parameters: int) -> str:
    """The number format of a checkpoint: as it says, else as its size tells."""
    for part in (config, text):
        name = str(getattr(part, "dtype", None)).removeprefix("torch.")
        if name in DTYPE_BYTES:
            return name
    return "float32" if stored > 3 * parameters else "bfloat16" if stored else "float32"

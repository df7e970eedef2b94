"""Memory that a model needs, computed from its configuration alone."""

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
"""Context length that memory is reserved for; the model's maximum if that is less."""
DTYPE_BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "bfloat16": 2, "float16": 2})


@dataclass(frozen=True)
class Need:
    """Bytes of device memory."""

    weights: int
    cache: int
    """Keys and values of the context."""
    work: int
    """Activations of one layer during prefill, and a tree's logits."""

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.work

    def __add__(self, other: Need) -> Need:
        return Need(self.weights + other.weights, self.cache + other.cache, self.work + other.work)


@dataclass(frozen=True)
class Size:
    """Parameter and value counts of one model, from which its `Need` in any dtype follows."""

    linear: int
    """Parameters of its linear layers except the LM head: those that quantization applies to."""
    others: int
    """All other parameters."""
    stored: int
    """Bytes of its files of weights; 0 if unknown."""
    ready_made: bool
    """The checkpoint is quantized."""
    own_dtype: str
    """The dtype of the checkpoint."""
    cache_values: int
    """Cached values (keys and values of all layers) per token."""
    work_values: int
    """Activation values per token within one layer."""
    head_values: int
    """Size of the vocabulary."""
    context: int
    """Tokens that memory is reserved for."""
    parameters: Mapping[str, int] = field(default_factory=dict, repr=False)
    """Number of values by parameter name."""

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
        per_value = self.context * width
        return Need(weights, self.cache_values * per_value, self.work_values * per_value + logits)


def measure(name: str, config: Any, stored: int = 0, *, code: bool = False) -> Size:
    """The size of the model that ``config`` describes, built on the meta device.

    ``stored``: bytes of its files of weights, if known. ``code``: its own code may run.

    Raises:
        ModelError: not a text-generating model, or it cannot be built.
    """
    import torch
    from torch import nn

    text = config.get_text_config(decoder=True)
    try:
        with quiet(), torch.device("meta"):
            # A copy, since from_config writes the dtype into the configuration.
            model = auto_class(config).from_config(
                deepcopy(config), dtype=torch.float32, trust_remote_code=code
            )
    except Exception as error:
        if "Unrecognized configuration class" in str(error):
            raise ModelError(f"{name}: not a text-generating model: choose another") from error
        raise
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
        work_values=6 * text.hidden_size + 3 * _feed_forward_width(text),
        head_values=text.vocab_size,
        context=min(CONTEXT, getattr(text, "max_position_embeddings", None) or CONTEXT),
        parameters=MappingProxyType(parameters),
    )


def auto_class(config: Any) -> Any:
    """The auto class for that configuration: image-text-to-text if it is one, else causal LM."""
    import transformers

    if type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def _feed_forward_width(text: Any) -> int:
    """Width of the feed-forward layer; of a token's active experts in a mixture."""
    experts = getattr(text, "moe_intermediate_size", None)
    if experts:
        return int(experts) * int(getattr(text, "num_experts_per_tok", 1) or 1)
    return int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size)


def _own_dtype(config: Any, text: Any, stored: int, parameters: int) -> str:
    """The dtype of a checkpoint: as stated, else inferred from its size."""
    for part in (config, text):
        name = str(getattr(part, "dtype", None)).removeprefix("torch.")
        if name in DTYPE_BYTES:
            return name
    return "float32" if stored > 3 * parameters else "bfloat16" if stored else "float32"

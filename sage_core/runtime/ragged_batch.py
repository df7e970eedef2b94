"""Passes of several texts as one ragged batch: no padding, and a cache for each text.

The texts' tree tokens are concatenated to one sequence, (1, all tokens), so that embeddings,
projections and the output head read their weights once. In attention the sequence is split: each
text's tokens attend to its own cache under its own mask, by the same call as in a pass of its own.
Texts may join or leave the batch between two passes at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sage_core.errors import UnsupportedError
from sage_core.runtime.attention.swap import attending_by
from sage_core.runtime.kv_cache import TreeCache, TreeCacheLayer
from sage_core.runtime.recurrent import RecurrentLayer, TreeStates
from sage_core.runtime.tree_runner import Outputs, PassRequest
from sage_core.runtime.windows import LayerKinds

RAGGED_ATTENTION = "sage_ragged"
"""The name in transformers' `AttentionInterface`."""
RAGGED_ARGUMENT = "sage_ragged_parts"


@dataclass(frozen=True, eq=False)
class Part:
    """One text's part of a ragged pass.

    Raises:
        ValueError: tokens, positions and mask differ in length.
    """

    tokens: Sequence[int]
    """n token ids."""
    positions: Sequence[int]
    """n rotary positions."""
    masks: Mapping[str, Tensor]
    """By kind of layer: additive, (1, 1, n, filled slots + n), or from a window's first slot on."""
    cache: TreeCache

    def __post_init__(self) -> None:
        rows = {mask.shape[-2] for mask in self.masks.values()}
        if rows != {len(self.tokens)} or len(self.positions) != len(self.tokens):
            raise ValueError("tokens, positions and rows of the mask differ in number")


def supports_ragged(decoder: Any) -> bool:
    """Whether a decoder's attention can be split by texts: PyTorch's, by transformers."""
    return str(decoder.config._attn_implementation) == "sdpa"


def ragged_pass(decoder: Any, parts: Sequence[Part], embeds: Tensor | None = None) -> Tensor:
    """Last hidden states (all tokens, hidden) of the concatenated ``parts``.

    Each part's keys and values are appended to its own cache. ``embeds``, (1, all tokens, hidden),
    are the decoder's inputs; None: the embeddings of the tokens.

    Raises:
        UnsupportedError: the decoder does not hand keyword arguments to its layers.
    """
    device = next(iter(parts[0].masks.values())).device
    tokens = [token for part in parts for token in part.tokens]
    positions = [position for part in parts for position in part.positions]
    ragged = _Ragged(parts)
    # transformers uses a mask of four dimensions as it is and builds none of its own. The last
    # one's size tells the kind of layer that it is for.
    markers = {
        kind: torch.zeros((1, 1, len(tokens), 1 + number), dtype=torch.int64, device=device)
        for number, kind in enumerate(ragged.kinds)
    }
    unmasked = dict.fromkeys(LayerKinds.holding_states(decoder.config))
    attending = attending_by(decoder.config, RAGGED_ATTENTION, ragged_attention_forward)
    with attending, parts[0].cache.exchanged():
        hidden: Tensor = decoder(
            input_ids=torch.tensor([tokens], device=device) if embeds is None else None,
            inputs_embeds=embeds,
            position_ids=torch.tensor([positions], device=device),
            attention_mask=markers.get("", markers | unmasked),
            past_key_values=_RaggedCache(ragged),
            use_cache=True,
            **{RAGGED_ARGUMENT: ragged},
        ).last_hidden_state[0]
    return hidden


@dataclass(eq=False)
class _Ragged:
    """The parts, and the states of each text that layers have written in this pass."""

    parts: Sequence[Part]
    written: list[tuple[Tensor, list[tuple[Tensor, Tensor]]]] = field(default_factory=list)
    """By the new keys, which a later layer may use too, if layers share keys and values."""

    def states(self, key: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each text for the attention over the new keys ``key``."""
        found = (states for new, states in self.written if new is key)
        return next(found, self.written[-1][1])

    @property
    def kinds(self) -> list[str]:
        return list(self.parts[0].masks)

    @property
    def sizes(self) -> list[int]:
        return [len(part.tokens) for part in self.parts]


class _RaggedLayer(TreeCacheLayer):
    """One layer of all texts' caches. It has no storage of its own: its length is 0."""

    _owner: _RaggedCache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is allocated."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append to each text's cache. The returned states are not used by the attention."""
        ragged = self._owner.ragged
        layers: list[Any] = [part.cache.layers[self.index] for part in ragged.parts]
        split = [states.split(ragged.sizes, -2) for states in (key_states, value_states)]
        states = [layer.update(k, v) for layer, k, v in zip(layers, *split, strict=True)]
        ragged.written.append((key_states, states))
        return key_states, value_states


class _RaggedStates(RecurrentLayer):
    """One layer's states of all texts."""

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        self._layers = layers

    def update_conv_state(self, conv_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return TreeStates(self._layers, conv_states)

    def update_recurrent_state(self, recurrent_states: Any, *args: Any, **kwargs: Any) -> Any:
        return recurrent_states

    def tree_state(self) -> TreeStates:
        return TreeStates(self._layers)


class _RaggedCache(TreeCache):
    layer_class = _RaggedLayer

    def __init__(self, ragged: _Ragged) -> None:
        super().__init__(len(ragged.parts[0].cache.layers), 0)
        self.ragged = ragged
        for index, layer in enumerate(ragged.parts[0].cache.layers):
            if isinstance(layer, RecurrentLayer):
                states = [part.cache.layers[index] for part in ragged.parts]
                self.layers[index] = _RaggedStates(states)


def ragged_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function of each layer: (1, all tokens, heads, size), and no weights.

    Raises:
        UnsupportedError: the model's decoder does not hand keyword arguments to its layers, or a
            layer makes a mask of its own.
    """
    ragged: _Ragged | None = kwargs.pop(RAGGED_ARGUMENT, None)
    if ragged is None:
        raise UnsupportedError(
            f"{type(module).__name__} cannot decode several texts at once: its decoder drops "
            "keyword arguments; decode them one by one"
        )
    if attention_mask is None or attention_mask.dtype != torch.int64:
        raise UnsupportedError(
            f"{type(module).__name__} cannot decode several texts at once: it changes the mask; "
            "decode them one by one"
        )
    kind = ragged.kinds[attention_mask.shape[-1] - 1]
    out = []
    queries = query.split(ragged.sizes, -2)
    for part, own, (keys, values) in zip(ragged.parts, queries, ragged.states(key), strict=True):
        mask = part.masks[kind].to(own.device)
        out.append(sdpa_attention_forward(module, own, keys, values, mask, **kwargs)[0])
    return torch.cat(out, dim=1), None


@torch.inference_mode()
def run_together(requests: Sequence[PassRequest]) -> list[Outputs]:
    """Make passes over one model together; the outputs of `PassRequest.run` for each.

    Raises:
        UnsupportedError: as `ragged_pass`.
    """
    first = requests[0].runner
    sizes = [len(request.tokens) for request in requests]
    parts = [
        Part(r.tokens, r.runner.positions(r), r.runner.masks(r), r.runner.cache) for r in requests
    ]
    with first.executor.multiplying(sum(sizes)):
        embeds = [one for r in requests if (one := r.runner.input_embeds(r)) is not None]
        hidden = ragged_pass(first.decoder, parts, torch.cat(embeds, dim=1) if embeds else None)
        split = hidden.split(sizes)
        scored = [h[-r.last :] if r.last else h for h, r in zip(split, requests, strict=True)]
        logits = first.lm_head(torch.cat(scored)).split([len(one) for one in scored])
    return list(zip(logits, split, strict=True))

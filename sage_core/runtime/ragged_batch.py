"""Passes of several texts as one: one run of tokens, attention over a cache each.

The texts' tree tokens stand behind one another as a single sequence, (1, all tokens). Embeddings,
projections and the head read their weights once for all of them, whatever each tree's size: nothing
is padded. Where tokens look at others, in attention, the run is cut again and each text's part goes
over that text's own keys and values under its own mask, by the very call that it would make alone.
So every text keeps a `TreeCache` to itself, and may join or leave between two passes at no cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sage_core.errors import UnsupportedError
from sage_core.runtime.attention.swap import attending_by
from sage_core.runtime.kv_cache import TreeCache
from sage_core.runtime.tree_runner import Outputs, PassRequest

JOINT_ATTENTION = "sage_joint"
"""The name in transformers' `AttentionInterface`."""
JOINT_ARGUMENT = "sage_joint_parts"


@dataclass(frozen=True, eq=False)
class Part:
    """One text's share of a joint pass.

    Raises:
        ValueError: tokens, positions and mask are not of one length.
    """

    tokens: Sequence[int]
    """n token ids."""
    positions: Sequence[int]
    """n rotary positions."""
    mask: Tensor
    """Additive, (1, 1, n, filled slots + n)."""
    cache: TreeCache

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.positions) == self.mask.shape[-2] > 0:
            raise ValueError("a part has as many positions and rows of its mask as it has tokens")


def supports_ragged(decoder: Any) -> bool:
    """Whether a decoder's attention is one that can be cut into parts."""
    return str(decoder.config._attn_implementation) == "sdpa"


def ragged_pass(decoder: Any, parts: Sequence[Part], rows: Tensor | None = None) -> Tensor:
    """Last hidden states (all tokens, hidden) of the ``parts`` behind one another.

    Every part's keys and values are written to its own cache, as by a pass of its own. The decoder
    embeds the tokens itself, unless it is given their ``rows``, (1, all tokens, hidden).

    Raises:
        UnsupportedError: the decoder does not hand keyword arguments to its layers.
    """
    device = parts[0].mask.device
    tokens = [token for part in parts for token in part.tokens]
    positions = [position for part in parts for position in part.positions]
    joined = _Joined(parts)
    with attending_by(decoder.config, JOINT_ATTENTION, joint_attention_forward):
        hidden: Tensor = decoder(
            input_ids=torch.tensor([tokens], device=device) if rows is None else None,
            inputs_embeds=rows,
            position_ids=torch.tensor([positions], device=device),
            # Four dimensions: transformers takes such a mask as made and builds none of its own.
            attention_mask=torch.zeros((1, 1, len(tokens), 1), dtype=torch.int64, device=device),
            past_key_values=_JointCache(joined),
            use_cache=True,
            **{JOINT_ARGUMENT: joined},
        ).last_hidden_state[0]
    return hidden


@dataclass(eq=False)
class _Joined:
    """The parts, and between a layer's update and its attention that layer's keys and values."""

    parts: Sequence[Part]
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def sizes(self) -> list[int]:
        return [len(part.tokens) for part in self.parts]

    def update(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Hand (1, heads, all tokens, size) to the caches of the parts."""
        cut = zip(self.parts, keys.split(self.sizes, -2), values.split(self.sizes, -2), strict=True)
        self.seen = [part.cache.layers[layer].update(k, v) for part, k, v in cut]  # type: ignore[union-attr]


class _JointLayer(CacheLayerMixin):
    """One layer of all caches; its fill marks are theirs."""

    is_sliding = False
    is_compileable = False

    def __init__(self, joined: _Joined, index: int) -> None:
        super().__init__()
        self._joined = joined
        self._index = index

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the storage is the texts' own."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write to every text's cache. What it gives is not read: attention has the parts."""
        self._joined.update(self._index, key_states, value_states)
        return key_states, value_states

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        n = query_length if isinstance(query_length, int) else query_length.shape[0]
        return n, 0

    def get_seq_length(self, *args: Any) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length


class _JointCache(Cache):
    def __init__(self, joined: _Joined) -> None:
        count = len(joined.parts[0].cache.layers)
        super().__init__(layers=[_JointLayer(joined, index) for index in range(count)])


def joint_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer: (1, all tokens, heads, size), and no weights.

    Raises:
        UnsupportedError: the model's decoder does not hand keyword arguments to its layers.
    """
    joined: _Joined | None = kwargs.pop(JOINT_ARGUMENT, None)
    if joined is None:
        raise UnsupportedError(
            f"{type(module).__name__} cannot decode several texts at once: its decoder drops "
            "keyword arguments; decode them one by one"
        )
    out = []
    queries = query.split(joined.sizes, -2)
    for part, states, (keys, values) in zip(joined.parts, queries, joined.seen, strict=True):
        mask = part.mask.to(states.device)
        out.append(sdpa_attention_forward(module, states, keys, values, mask, **kwargs)[0])
    return torch.cat(out, dim=1), None


@torch.inference_mode()
def run_together(requests: Sequence[PassRequest]) -> list[Outputs]:
    """The passes of several texts over one model, as one: what `PassRequest.run` gives, for each.

    Raises:
        UnsupportedError: see `ragged_pass`.
    """
    first = requests[0].runner
    sizes = [len(request.tokens) for request in requests]
    parts = [
        Part(r.tokens, r.runner.positions(r), r.runner.mask(r), r.runner.cache) for r in requests
    ]
    with first.executor.multiplying(sum(sizes)):
        embeds = [one for r in requests if (one := r.runner.input_embeds(r)) is not None]
        hidden = ragged_pass(first.decoder, parts, torch.cat(embeds, dim=1) if embeds else None)
        split = hidden.split(sizes)
        asked = [h[-r.last :] if r.last else h for h, r in zip(split, requests, strict=True)]
        logits = first.lm_head(torch.cat(asked)).split([len(one) for one in asked])
    return list(zip(logits, split, strict=True))

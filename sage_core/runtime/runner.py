"""One transformers model at work on one sequence: prefill, a pass over a tree, commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_core.errors import UnsupportedError
from sage_core.generation.prepare import Prepared
from sage_core.runtime.kv_cache import TreeCache
from sage_core.runtime.tree_mask import TreeMaskBuffer

READ_TOKENS = 512
"""Most tokens of further text in one pass, so that the mask stays small."""


class Runner:
    """Runs a model's own decoder and head over token trees, with its cache.

    The cache holds ``committed`` slots of the text and, between a pass and its `commit`, the
    passed tree columns behind them. Slots are absolute sequence positions; rotary positions are
    slots plus the prompt's ``position_offset``. The model itself is never modified.

    Raises:
        UnsupportedError: the model's logits or attention follow rules that a tree pass through
            its decoder would not reproduce (sliding windows, soft-capped or scaled logits).
    """

    backend = "eager"
    """How passes run; what they cost depends on it."""
    watchable = True
    """Whether what the model's layers do in a pass is of this text alone, and can be seen."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._decoder = model.get_decoder()
        self._head: Callable[[Tensor], Tensor] = model.get_output_embeddings()
        self._config = self._decoder.config
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.committed = 0
        self.heard: list[Tensor] | None = None
        """If it is a list, `read` adds the last hidden states (n, hidden) of what it reads."""
        _refuse_model(model, self._config)

    @property
    def decoder(self) -> Any:
        """The language model inside, a transformers module."""
        return self._decoder

    @property
    def vocab_size(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[0])

    def watch(self) -> None:
        """Run the decoder's own modules in every pass from here on, for hooks to see."""

    def set_lm_head(self, head: Callable[[Tensor], Tensor]) -> None:
        """Score by ``head``, (n, hidden) -> (n, S), in place of the model's own; not in `prefill`.

        To be said before the first pass.
        """
        self._head = head

    @torch.inference_mode()
    def prefill(self, prepared: Prepared, room: int, positions: np.ndarray | None = None) -> Tensor:
        """Read the prompt through the whole model; ``room`` is the slots to reserve behind it.

        With ``positions``, int64 ascending, the decoder reads only the prompt's tokens there, the
        last among them; slots then count the tokens read, and rotary positions stay the prompt's.

        Returns the logits after the last prompt token, (1, vocabulary).
        """
        n = prepared.prompt_tokens if positions is None else len(positions)
        devices = set((getattr(self.model, "hf_device_map", None) or {}).values())
        layers = int(self._config.num_hidden_layers)
        self.cache = self._new_cache(layers, n + room, shared=len(devices) < 2)
        self._offset = prepared.position_offset + prepared.prompt_tokens - n
        self._mask = TreeMaskBuffer(self.device, self.model.dtype)
        inputs = self.model.prepare_inputs_for_generation(
            prepared.input_ids,
            is_first_iteration=True,
            **{**prepared.model_inputs, "past_key_values": self.cache, "use_cache": True},
        )
        with prefill_subset(self._decoder, positions, prepared.prompt_tokens):
            logits = self.model(**inputs, return_dict=True).logits
        self.committed = n
        return logits[:, -1]

    @torch.inference_mode()
    def forward(
        self, tokens: Sequence[int], depths: Sequence[int], visible: np.ndarray, last: int = 0
    ) -> tuple[Tensor, Tensor]:
        """One pass over ``n`` tree tokens, behind the columns already passed since `commit`.

        Args:
            tokens: n token ids.
            depths: each token's distance from the first slot behind the committed text.
            visible: bool (n, columns): which tree columns, old and new, each token sees besides
                the whole committed text.
            last: give logits for this many last tokens only; 0 for all.

        Returns:
            logits (n or ``last``, vocabulary, or S under `score_by`) and the decoder's last hidden
            states (n, hidden), both in the model's own dtype.
        """
        start = self.committed + self._offset
        hidden = self._decode(
            input_ids=torch.tensor([tokens], device=self.device),
            position_ids=torch.tensor([[start + d for d in depths]], device=self.device),
            attention_mask=self._mask.additive(visible, self.committed),
        )[0]
        return self._head(hidden[-last:] if last else hidden), hidden

    def _decode(self, **inputs: Any) -> Tensor:
        """(1, n, hidden) the decoder's last hidden states."""
        hidden: Tensor = self._decoder(
            **inputs, past_key_values=self.cache, use_cache=True
        ).last_hidden_state
        return hidden

    @torch.inference_mode()
    def commit(self, columns: Sequence[int]) -> None:
        """Make the given tree columns (ascending, a path) part of the text; forget the others."""
        self.cache.keep(self.committed, [self.committed + column for column in columns])
        self.committed += len(columns)

    def extend(self, tokens: Sequence[int]) -> Tensor:
        """Read more text behind what is committed; (1, vocabulary) logits after its last token."""
        for start in range(0, len(tokens), READ_TOKENS):
            part = tokens[start : start + READ_TOKENS]
            causal = np.tril(np.ones((len(part), len(part)), dtype=bool))
            logits, hidden = self.forward(part, range(len(part)), causal, last=1)
            if self.heard is not None:
                self.heard.append(hidden)
            self.commit(range(len(part)))
        return logits

    def truncate(self, count: int) -> None:
        """Drop the last ``count`` committed slots, which hold text only."""
        self.committed -= count
        self.cache.keep(self.committed, [])

    def _new_cache(self, layers: int, capacity: int, shared: bool) -> TreeCache:
        return TreeCache(layers, capacity, shared=shared)


def _refuse_model(model: Any, config: Any) -> None:
    name = type(model).__name__
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise UnsupportedError(
            f"{name} has {', '.join(sorted(kinds))} layers: only full attention works"
        )
    for field in ("final_logit_softcapping", "attn_logit_softcapping"):
        if getattr(config, field, None):
            raise UnsupportedError(f"{name} uses {field}, which is not supported")
    for field in ("logit_scale", "logits_scaling"):
        if getattr(config, field, None) not in (None, 1, 1.0):
            raise UnsupportedError(f"{name} uses {field}, which is not supported")


@contextmanager
def prefill_subset(decoder: Any, positions: np.ndarray | None, length: int) -> Iterator[None]:
    """While open, ``decoder`` reads of a prompt of ``length`` tokens only those at ``positions``.

    The model around it runs unchanged: it encodes the pictures and merges them with the text,
    and what it then hands to its decoder is cut to the kept columns, rotary positions (of one or
    of three axes) and per-layer visual features included. With None everything is read.
    """
    if positions is None:
        yield
        return

    def cut(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, _cut(kwargs, torch.from_numpy(positions), length)

    handle = decoder.register_forward_pre_hook(cut, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _cut(kwargs: dict[str, Any], positions: Tensor, length: int) -> dict[str, Any]:
    out = dict(kwargs)
    seen = out.get("inputs_embeds")
    first = seen if seen is not None else out["input_ids"]
    keep = positions.to(first.device)
    for name in ("inputs_embeds", "input_ids"):
        if out.get(name) is not None:
            out[name] = out[name][:, keep]
    given = out.get("position_ids")
    if given is None:
        given = torch.arange(length, device=first.device)[None]
    out["position_ids"] = given[..., keep]
    # The prompt has no padding and the cut keeps its order: plain causal attention is right.
    out["attention_mask"] = None
    for name in ("cache_position", "visual_pos_masks"):
        value = out.get(name)
        if value is None:
            continue
        if name == "cache_position":
            out[name] = value[: len(keep)]
            continue
        out[name] = value[:, keep]
        among = value[0, keep].nonzero()[:, 0]  # kept columns that are visual
        index = (value[0].cumsum(0) - 1)[keep[among]]  # their numbers among all visual ones
        features = out.get("deepstack_visual_embeds")
        if features is not None:
            out["deepstack_visual_embeds"] = [layer[index] for layer in features]
    return out

"""Runs a draft head on one sequence: prefill, passes over tree tokens, commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sage_core.drafts.head.module import Head, HeadPrompt
from sage_core.runtime.backend import Backend, EagerBackend
from sage_core.runtime.kv_cache import TreeCache
from sage_core.runtime.tree_runner import PassRequest, TreeRunner


class HeadRunner(TreeRunner):
    """Runs a head's layer between its target's embedding and output head, with its own cache.

    Images may be compressed, so cache slots are not positions in the text. The hidden states of a
    pass, (n, hidden), are the predicted features.

    Args:
        head: on the device and in the dtype of the target's output head.
        target: the loaded model whose embedding and output head it uses.
        backend: makes the executor; None: eager passes.
    """

    def __init__(self, head: Head, target: Any, backend: Backend | None = None) -> None:
        lm_head = target.get_output_embeddings()
        modules = [head.decoder, head.fuse, lm_head]
        executor = (backend or EagerBackend()).executor(head, modules)
        super().__init__(executor, lm_head, head.device, head.dtype)
        self._head = head
        self._embedding = target.get_input_embeddings()
        self._global_feature: Tensor | None = None
        self._embeds_of: dict[int, Tensor] = {}
        """(1, hidden) by token id, of single-token passes."""

    @property
    def model(self) -> Any:
        return self._head

    @property
    def decoder(self) -> Any:
        return self._head.decoder

    @torch.inference_mode()
    def prefill(self, prompt: HeadPrompt | None, following: int, room: int) -> None:
        """Read a prompt.

        Args:
            prompt: `Head.build_prompt`; None if it is empty.
            following: rotary position of the token after it.
            room: cache slots to reserve after the prompt.
        """
        n = 0 if prompt is None else int(prompt.inputs.shape[1])
        self._start(TreeCache(1, n + room), n, following - n)
        if prompt is not None and n:
            self._head.decoder(
                inputs_embeds=prompt.inputs,
                position_ids=prompt.positions,
                past_key_values=self.cache,
                use_cache=True,
            )
            self._global_feature = prompt.global_feature

    def inputs(self, request: PassRequest) -> dict[str, Tensor]:
        assert request.features is not None
        inputs = {
            "features": request.features[None],
            "embeds": self.embeds(request.tokens)[None],
            "positions": torch.tensor([self.positions(request)], device=self.device),
            "mask": self.mask(request),
        }
        if self._global_feature is not None:
            inputs["global_feature"] = self._global_feature
        return inputs

    def decode(self, **inputs: Any) -> Tensor:
        features, embeds = inputs.pop("features"), inputs.pop("embeds")
        global_feature = inputs.pop("global_feature", None)
        predicted: Tensor = self._head.decoder(
            inputs_embeds=self._head.inputs(features, embeds, global_feature),
            position_ids=inputs.pop("positions"),
            attention_mask=inputs.pop("mask"),
            past_key_values=self.cache,
            use_cache=True,
            **inputs,
        ).last_hidden_state
        return predicted

    def input_embeds(self, request: PassRequest) -> Tensor | None:
        assert request.features is not None
        embeds = self.embeds(request.tokens)[None]
        return self._head.inputs(request.features[None], embeds, self._global_feature)

    def embeds(self, tokens: Sequence[int]) -> Tensor:
        """(n, hidden) embeddings of token ids, by the target's own embedding."""
        if len(tokens) == 1 and tokens[0] in self._embeds_of:
            return self._embeds_of[tokens[0]]
        ids = torch.tensor(list(tokens), device=self._embedding.weight.device)
        found: Tensor = self._embedding(ids).to(self.device, self._head.dtype)
        if len(tokens) == 1:
            self._embeds_of[tokens[0]] = found
        return found

"""Runs a transformers model on one sequence: prefill, passes over token trees, commit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_core.generation.prepare import Prepared
from sage_core.models.checkpoint_errors import forward_errors
from sage_core.models.parts import decoder_of, output_head
from sage_core.runtime.passes import Passes
from sage_core.runtime.recurrent import StateFunctions
from sage_core.runtime.tree_columns import TreeColumns
from sage_core.runtime.tree_runner import EagerExecutor, Executor, PassRequest, TreeRunner
from sage_core.runtime.windows import LayerKinds

EXTEND_TOKENS = 512
"""Most tokens of a pass that extends the text, which bounds the size of the mask."""


@dataclass(frozen=True, eq=False)
class PromptOutputs:
    """Outputs for a prompt, or for the part of it that was not cached.

    The last three are None unless requested.
    """

    logits: Tensor
    """(1, vocabulary), after the last token."""
    features: Tensor | None = None
    """(1, n, hidden) last hidden states, after the final norm."""
    embeds: Tensor | None = None
    """(1, n, hidden) input embeddings, visual ones included; None after a cached prefix."""
    positions: Tensor | None = None
    """(1, n) or (axes, 1, n) rotary positions; None after a cached prefix."""


class Runner(TreeRunner):
    """Runs a transformers model, which is not modified. `engine.trial` tells which ones it can."""

    def __init__(self, model: Any, executor: Executor | None = None) -> None:
        self._model = model
        self._decoder = decoder_of(model)
        self._config = self._decoder.config
        device = model.get_input_embeddings().weight.device
        self._kinds = LayerKinds.of(self._config)
        self._depths: list[int] = []
        """Of the tree columns."""
        self._columns: TreeColumns | None = None
        self._functions: StateFunctions | None = None
        if self._kinds.states:
            layers = [self._decoder.layers[i] for i in self._kinds.states]
            self._functions = StateFunctions.of(layers)
        super().__init__(executor or EagerExecutor(), output_head(model), device, model.dtype)

    @property
    def model(self) -> Any:
        return self._model

    @property
    def decoder(self) -> Any:
        return self._decoder

    @property
    def vocab_size(self) -> int:
        head = self._model.get_output_embeddings()
        weight = head.weight  # a method of dynamically quantized layers
        return int(weight.shape[0] if isinstance(weight, Tensor) else head.out_features)

    @torch.inference_mode()
    def prefill(
        self,
        prepared: Prepared,
        room: int,
        positions: np.ndarray | None = None,
        *,
        features: bool = False,
    ) -> PromptOutputs:
        """Read the prompt through the whole model.

        Args:
            prepared: the prompt.
            room: cache slots to reserve after it.
            positions: int64 ascending: read only the tokens there, the prompt's last among them.
                Slots then count the tokens read; rotary positions stay the prompt's. None: all.
            features: return hidden states, embeddings and positions as well.
        """
        n = prepared.prompt_tokens if positions is None else len(positions)
        devices = set((getattr(self._model, "hf_device_map", None) or {}).values())
        layers = int(self._config.num_hidden_layers)
        # Heads of layers with and without a window may differ in size.
        shared = len(devices) < 2 and not self._kinds.limited and not self._kinds.states
        cache = self.executor.new_cache(layers, n + room, shared=shared)
        if self._kinds.states:
            cache.hold_states(self._kinds.states, self._functions)
        self._start(cache, 0, prepared.position_offset + prepared.prompt_tokens - n)
        inputs = self._model.prepare_inputs_for_generation(
            prepared.input_ids,
            is_first_iteration=True,
            **{**prepared.model_inputs, "past_key_values": cache, "use_cache": True},
        )
        call: dict[str, Any] | None = {} if features else None
        hooks = _prefill_hooks(self._decoder, positions, prepared.prompt_tokens, call)
        whole = {"input_ids": prepared.input_ids, **prepared.model_inputs, "use_cache": False}
        with forward_errors(lambda: self._model(**whole)), hooks:
            logits = self._model(**inputs, return_dict=True).logits[:, -1]
        self.committed = n
        cache.begin(n)
        if call is None:
            return PromptOutputs(logits)
        embeds = call.get("inputs_embeds")
        if embeds is None:
            embeds = self._model.get_input_embeddings()(call["input_ids"])
        return PromptOutputs(logits, call["features"], embeds, _positions(call))

    def extend(self, tokens: Sequence[int], *, features: bool = False) -> Passes[PromptOutputs]:
        """Read more text and commit it."""
        states: list[Tensor] = []
        for start in range(0, len(tokens), EXTEND_TOKENS):
            part = tokens[start : start + EXTEND_TOKENS]
            causal = np.tril(np.ones((len(part), len(part)), dtype=bool))
            logits, hidden = yield PassRequest(self, part, range(len(part)), causal, last=1)
            if features:
                states.append(hidden)
            self.commit(range(len(part)))
        return PromptOutputs(logits, torch.cat(states)[None] if features else None)

    def inputs(self, request: PassRequest) -> dict[str, Tensor]:
        return {
            "input_ids": torch.tensor([request.tokens], device=self.device),
            "position_ids": torch.tensor([self.positions(request)], device=self.device),
            **{f"mask_{kind}": mask for kind, mask in self.masks(request).items()},
        }

    def masks(self, request: PassRequest) -> dict[str, Tensor]:
        n, columns = request.visible.shape
        if self._kinds.states:
            before = self._columns if columns > n else None
            self._columns = TreeColumns(before, request.visible)
            self.cache.follow(self._columns)
        if not self._kinds.limited:
            return {kind: self.mask(request) for kind in self._kinds.attending}
        self._depths = [*self._depths[: columns - n], *request.depths]
        depths = np.array(self._depths)
        layers: Any = self.cache.layers
        for layer, kind in zip(layers, self._kinds.layers, strict=True):
            window = self._kinds.windows[kind]
            layer.first = 0 if window is None else window.first(self.committed)
        return {
            kind: self.mask(request)
            if window is None
            else self._mask.windowed(request.visible, self.committed, depths, window)
            for kind, window in self._kinds.attending.items()
        }

    def decode(self, **inputs: Any) -> Tensor:
        masks = {kind: inputs.pop(f"mask_{kind}", None) for kind in self._kinds.windows}
        with self.cache.exchanged():
            hidden: Tensor = self._decoder(
                attention_mask=masks.get("", masks),
                past_key_values=self.cache,
                use_cache=True,
                **inputs,
            ).last_hidden_state
        return hidden


def _prefill_hooks(
    decoder: Any, positions: np.ndarray | None, length: int, call: dict[str, Any] | None
) -> ExitStack:
    """Hooks on ``decoder`` while the model around it runs a prompt of ``length`` tokens.

    Its arguments are cut to ``positions``, unless None: the model encodes images and merges them
    with the text as ever. Arguments and features are recorded in ``call``, unless None.
    """

    def cut(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        assert positions is not None
        return args, _cut(kwargs, torch.from_numpy(positions), length)

    def record(_module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        assert call is not None
        call.update({"input_ids": args[0]} if args else {})
        call.update(kwargs, features=output.last_hidden_state)

    hooks = ExitStack()
    if positions is not None:
        hooks.callback(decoder.register_forward_pre_hook(cut, with_kwargs=True).remove)
    if call is not None:
        hooks.callback(decoder.register_forward_hook(record, with_kwargs=True).remove)
    return hooks


def _positions(call: dict[str, Any]) -> Tensor:
    """Rotary positions, without the leading axis of text positions that Qwen passes."""
    given: Tensor | None = call.get("position_ids")
    if given is None:
        return torch.arange(call["features"].shape[1], device=call["features"].device)[None]
    return given[1:] if given.ndim == 3 and given.shape[0] == 4 else given


def _cut(kwargs: dict[str, Any], positions: Tensor, length: int) -> dict[str, Any]:
    out = dict(kwargs)
    embeds = out.get("inputs_embeds")
    device = (out["input_ids"] if embeds is None else embeds).device
    keep = positions.to(device)
    for name in ("inputs_embeds", "input_ids"):
        if out.get(name) is not None:
            out[name] = out[name][:, keep]
    given = out.get("position_ids")
    if given is None:
        given = torch.arange(length, device=device)[None]
    out["position_ids"] = given[..., keep]
    out["attention_mask"] = None  # causal: there is no padding, and the order is kept
    if out.get("cache_position") is not None:
        out["cache_position"] = out["cache_position"][: len(keep)]
    visual = out.get("visual_pos_masks")
    if visual is not None:
        out["visual_pos_masks"] = visual[:, keep]
        kept = keep[visual[0, keep].nonzero()[:, 0]]
        index = (visual[0].cumsum(0) - 1)[kept]  # of the kept visual tokens among all
        features = out.get("deepstack_visual_embeds")
        if features is not None:
            out["deepstack_visual_embeds"] = [layer[index] for layer in features]
    return out

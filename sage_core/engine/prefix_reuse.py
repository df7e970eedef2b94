"""Prefix reuse: the caches of both models are kept from text to text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sage_core.drafts.tree_drafter import TreeDrafter
from sage_core.engine.loop import Decoding
from sage_core.engine.settings import DecoderSettings
from sage_core.generation.prepare import Prepared, prepare
from sage_core.generation.sequence import TokenSequence
from sage_core.models.inputs import visual_mask
from sage_core.models.parts import decoder_of
from sage_core.runtime.model_state import module_state, weight_state
from sage_core.runtime.passes import passes_until_event
from sage_core.runtime.runner import Runner
from sage_core.trees.steps import Step

_BY_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
"""Inputs with a value per token; all other tensors are of images and videos."""


class PrefixReuse:
    """The caches of a target and its draft, for texts with common prefixes.

    Pass the same object to each `SpeculativeDecoder.stream` of a conversation. A text that begins
    as the previous one, with the same images, is read only from the first difference; any other is
    read from its start, also after a step that raised. The output is the same either way. It serves
    one text at a time: the first step of a text ends the previous one. Caches of weights that have
    changed are dropped.

    Args:
        single: it will serve one text only, so that weights need no comparison.
    """

    def __init__(self, *, single: bool = False) -> None:
        self._single = single
        self._state: list[Any] = []
        self.reused = 0
        """Tokens of the latest prompt that were in the target's cache."""
        self.kept: dict[str, Any] = {}
        """State of decoding extensions that is kept with the caches."""
        self.drafter: TreeDrafter | None = None
        """The drafter with the draft's cache; None without one."""
        self._target: Runner | None = None
        self._draft: Any = None
        self._sequence: TokenSequence | None = None
        """The cached text; None if the caches are not valid."""
        self._media: dict[str, Tensor] = {}
        self._media_end = 0

    def runner(self, settings: DecoderSettings) -> Runner:
        """The runner of the settings' target; caches of other models are dropped."""
        target, draft = settings.target, settings.draft
        state: list[Any] = []
        if not self._single:
            modules = [decoder_of(target), target.get_output_embeddings()]
            state = [*module_state(modules), *weight_state([target])]
        known = self._target is not None and self._target.model is target and self._draft is draft
        if self._target is None or not known or state != self._state:
            self._state = state
            self._target = Runner(target, settings.backend.executor(target))
            self._draft = draft
            self.forget()
        return self._target

    def forget(self) -> None:
        """Drop the caches: the next text is read from its start."""
        self._sequence, self.drafter, self.reused = None, None, 0
        self.kept = {}

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> Prepared:
        """As `generation.prepare.prepare`, with ``read`` the number of tokens in the cache."""
        assert self._target is not None
        model, sequence = self._target.model, self._sequence
        self._sequence = None  # until the new text's first step is done
        media = {k: v for k, v in inputs.items() if isinstance(v, Tensor) and k not in _BY_TOKEN}
        same = _common(sequence, inputs["input_ids"]) if sequence and self._knows(media) else 0
        if sequence is not None:
            same, self.reused = self._restorable(sequence, same)
        if sequence is None or min(same, self.reused) < max(1, self._media_end):
            self.forget()
            prepared = prepare(model, inputs, options)
            self._media = media
            self._media_end = _media_end(model.config, prepared.input_ids) if media else 0
            return prepared
        # The images are in the cache: `generate` prepares the text only.
        text = {name: value for name, value in inputs.items() if name not in media}
        prepared = replace(prepare(model, text, options), read=self.reused)
        self._target.truncate(self._target.committed - self.reused)
        if self.drafter is not None:
            new: list[int] = prepared.input_ids[0, same:].tolist()
            self.drafter.rewind(sequence.length - same, new)
        return prepared

    def _restorable(self, sequence: TokenSequence, same: int) -> tuple[int, int]:
        """Of the ``same`` first tokens: those that the draft, and those that the target keeps.

        A state does not go back to every token: the ones after it are read again.
        """
        assert self._target is not None
        reused = self._target.restorable(max(0, self._target.committed - same))
        if self.drafter is not None:
            same -= self.drafter.lost_with(sequence.length - same)
        return (same, reused) if same > 0 else (0, 0)

    def following(
        self, decoding: Decoding, sequence: TokenSequence, drafter: TreeDrafter | None
    ) -> Decoding:
        """The ``decoding`` of ``sequence``; the caches are valid after each of its steps."""
        self.drafter = drafter
        step: Step | None
        while (step := (yield from passes_until_event(decoding))) is not None:
            self._sequence = sequence
            if step.finished and drafter is not None and not drafter.started:
                self.forget()  # the draft has not read the prompt
            yield step
            if step.finished:
                return
            if self._sequence is not sequence:
                raise RuntimeError("another text has been started with the same prefix reuse")
            self._sequence = None  # during a step

    def _knows(self, media: dict[str, Tensor]) -> bool:
        """Whether these are the images in the caches."""
        return media.keys() == self._media.keys() and all(
            value is self._media[name] or _equal(value, self._media[name])
            for name, value in media.items()
        )


def _common(sequence: TokenSequence, ids: Tensor) -> int:
    """The length of the common prefix of the text and (1, n) ``ids`` without its last token."""
    n = min(sequence.length, ids.shape[1] - 1)
    agree = sequence.ids[0, :n] == ids[0, :n].to(sequence.ids.device)
    return int(agree.long().cumprod(0).sum())


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b.to(a.device))


def _media_end(config: Any, ids: Tensor) -> int:
    """The first position of (1, n) ``ids`` after all images; n if there are no placeholders."""
    found = visual_mask(config, ids)[0].nonzero()
    return int(found.max()) + 1 if len(found) else int(ids.shape[1])

"""The caches of both models, kept from one text to the next, so that only new tokens are read."""

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
from sage_core.runtime.passes import passes_until_event
from sage_core.runtime.runner import Runner
from sage_core.trees.steps import Step

_BY_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
"""Inputs with a value for each token; every other tensor describes images and videos."""


class PrefixReuse:
    """The caches of a target and its draft, for texts that go on from one another.

    Give the same one to every `SpeculativeDecoder.stream` of a conversation. A text that begins as
    the one before, with the same images, is read only from where it differs; any other is read from
    its start, and so is one that follows a step which broke off. The output is the same either way.
    It serves one text at a time: the next one's first step ends the one before.
    """

    def __init__(self) -> None:
        self.reused = 0
        """Tokens of the latest prompt that the target's cache held already."""
        self.kept: dict[str, Any] = {}
        """What decoding extensions keep while texts go on from one another."""
        self.drafter: TreeDrafter | None = None
        """The drafter that has read what is held; None if there is none."""
        self._target: Runner | None = None
        self._draft: Any = None
        self._sequence: TokenSequence | None = None
        """None if nothing is held."""
        self._media: dict[str, Tensor] = {}
        self._media_end = 0

    def runner(self, settings: DecoderSettings) -> Runner:
        """The runner of the settings' target; what other models have read is forgotten."""
        target, draft = settings.target, settings.draft
        if self._target is None or self._target.model is not target or self._draft is not draft:
            self._target = Runner(target, settings.backend.executor(target))
            self._draft = draft
            self.forget()
        return self._target

    def forget(self) -> None:
        """Hold nothing: the next text is read from its start."""
        self._sequence, self.drafter, self.reused = None, None, 0
        self.kept = {}

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> Prepared:
        """As `prepare.prepare`, with ``read`` set to how much of the prompt is held already."""
        assert self._target is not None
        model, sequence = self._target.model, self._sequence
        self._sequence = None  # until the new text's first step is done
        media = {k: v for k, v in inputs.items() if isinstance(v, Tensor) and k not in _BY_TOKEN}
        same = _common(sequence, inputs["input_ids"]) if sequence and self._knows(media) else 0
        self.reused = min(same, self._target.committed)
        if sequence is None or self.reused < max(1, self._media_end):
            self.forget()
            prepared = prepare(model, inputs, options)
            self._media = media
            self._media_end = _media_end(model.config, prepared.input_ids) if media else 0
            return prepared
        # The images have been read: only the rules of the text are asked for.
        text = {name: value for name, value in inputs.items() if name not in media}
        prepared = replace(prepare(model, text, options), read=self.reused)
        self._target.truncate(self._target.committed - self.reused)
        if self.drafter is not None:
            new: list[int] = prepared.input_ids[0, same:].tolist()
            self.drafter.rewind(sequence.length - same, new)
        return prepared

    def following(
        self, decoding: Decoding, sequence: TokenSequence, drafter: TreeDrafter | None
    ) -> Decoding:
        """The ``decoding`` of ``sequence``; notes whenever the caches agree with the text."""
        self.drafter = drafter
        step: Step | None
        while (step := (yield from passes_until_event(decoding))) is not None:
            self._sequence = sequence
            if step.finished and drafter is not None and not drafter.started:
                self.forget()  # the draft has read nothing that a text could go on from
            yield step
            if step.finished:
                return
            if self._sequence is not sequence:
                raise RuntimeError("another text has been started with the same prefix reuse")
            self._sequence = None  # while a step is under way

    def _knows(self, media: dict[str, Tensor]) -> bool:
        """Whether these are the images that were read."""
        return media.keys() == self._media.keys() and all(
            value is self._media[name] or _equal(value, self._media[name])
            for name, value in media.items()
        )


def _common(sequence: TokenSequence, ids: Tensor) -> int:
    """How many tokens of (1, n) ``ids`` begin the text as well; the last of them is left out."""
    n = min(sequence.length, ids.shape[1] - 1)
    agree = sequence.ids[0, :n] == ids[0, :n].to(sequence.ids.device)
    return int(agree.long().cumprod(0).sum())


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b.to(a.device))


def _media_end(config: Any, ids: Tensor) -> int:
    """The first position of (1, n) ``ids`` behind all pictures; n if they cannot be told apart."""
    found = visual_mask(config, ids)[0].nonzero()
    return int(found.max()) + 1 if len(found) else int(ids.shape[1])

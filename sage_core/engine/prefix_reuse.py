"""What both models have read, kept from one text to the next, so that only new tokens are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sage_core.drafts.drafter import Drafter
from sage_core.drafts.ngram_hybrid import Payoff
from sage_core.drafts.tree_drafter import TreeDrafter
from sage_core.generation.prepare import Prepared, prepare
from sage_core.generation.sequence import TokenSequence
from sage_core.models.visual_tokens import visual_mask
from sage_core.runtime.backend import MakeRunner
from sage_core.runtime.runner import Runner
from sage_core.trees.steps import Step

_BY_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
"""Inputs with a value for each token; every other tensor describes pictures and clips."""


class PrefixReuse:
    """The caches of a target and its draft, for texts that go on from one another.

    Give the same one to every `SpeculativeDecoder.stream` of a conversation. A text that begins as
    the one before, with the same pictures, is read only from where it differs; any other is read
    from its start, and so is one that follows a step which broke off. The output is the same
    either way. It serves one text at a time: the next one's first step ends the one before.
    """

    def __init__(self) -> None:
        self.reused = 0
        """Tokens of the latest prompt that the target's cache held already."""
        self.payoff: Payoff | None = None
        """What drafts that were looked up have earned in texts that went on from one another."""
        self._target: Runner | None = None
        self._draft: Any = None
        self._drafter: TreeDrafter | None = None
        self._text: TokenSequence | None = None
        """None if nothing is held."""
        self._media: dict[str, Tensor] = {}
        self._media_end = 0

    @property
    def drafter(self) -> TreeDrafter | None:
        """The drafter that has read what is held; None if there is none."""
        return self._drafter

    def runner(self, target: Any, draft: Any, make: MakeRunner) -> Runner:
        """The runner of ``target``, by ``make``; what other models have read is forgotten."""
        if self._target is None or self._target.model is not target or self._draft is not draft:
            self._target, self._draft = make(target), draft
            self.forget()
        return self._target

    def forget(self) -> None:
        """Hold nothing: the next text is read from its start."""
        self._text, self._drafter, self.reused = None, None, 0
        self.payoff = None

    def prepare(self, inputs: dict[str, Any]) -> Prepared:
        """As `prepare.prepare`, with ``read`` set to how much of the prompt is held already."""
        assert self._target is not None
        model, text = self._target.model, self._text
        self._text = None  # until the new text's first step is done
        media = {k: v for k, v in inputs.items() if isinstance(v, Tensor) and k not in _BY_TOKEN}
        same = _common(text, inputs["input_ids"]) if text and self._knows(media) else 0
        self.reused = min(same, self._target.committed)
        if text is None or self.reused < max(1, self._media_end):
            self.forget()
            prepared = prepare(model, inputs)
            self._media = media
            self._media_end = _media_end(model.config, prepared.input_ids) if media else 0
            return prepared
        # The pictures have been read: only the rules of the text are asked for.
        rules = {name: value for name, value in inputs.items() if name not in media}
        prepared = replace(prepare(model, rules), read=self.reused)
        self._target.truncate(self._target.committed - self.reused)
        if self._drafter is not None:
            self._drafter.rewind(text.length - same, prepared.input_ids[0, same:].tolist())
        return prepared

    def following(
        self, steps: Iterator[Step], text: TokenSequence, drafter: Drafter
    ) -> Iterator[Step]:
        """The ``steps`` of ``text``, with note taken of when the caches agree with it."""
        self._drafter = drafter if isinstance(drafter, TreeDrafter) else None
        while (step := next(steps, None)) is not None:
            self._text = text
            if step.is_prefill and step.finished and self._drafter is not None:
                if self._drafter.started:
                    self._drafter.rewind(0, step.tokens)
                else:  # the draft has read nothing
                    self.forget()
            yield step
            if step.finished:
                return
            if self._text is not text:
                raise RuntimeError("another text has been started with the same reading")
            self._text = None  # while a step is under way

    def _knows(self, media: dict[str, Tensor]) -> bool:
        """Whether these are the pictures that were read."""
        return media.keys() == self._media.keys() and all(
            value is self._media[name] or _equal(value, self._media[name])
            for name, value in media.items()
        )


def _common(text: TokenSequence, ids: Tensor) -> int:
    """How many tokens of (1, n) ``ids`` begin the text as well; the last of them is left out."""
    n = min(text.length, ids.shape[1] - 1)
    agree = text.ids[0, :n] == ids[0, :n].to(text.ids.device)
    return int(agree.long().cumprod(0).sum())


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b.to(a.device))


def _media_end(config: Any, ids: Tensor) -> int:
    """The first position of (1, n) ``ids`` behind all pictures; n if they cannot be told apart."""
    found = visual_mask(config, ids)[0].nonzero()
    return int(found.max()) + 1 if len(found) else int(ids.shape[1])

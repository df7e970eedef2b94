"""The token sequence of one text, with its logits processors and stopping criteria."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sage_core.generation.prepare import Prepared

LIKELY_TOKENS = 1024
"""Most new tokens that memory is reserved for up front; behind them it grows with the text."""


class TokenSequence:
    """Prompt and committed tokens, processed token by token as in `generate`.

    Stopping criteria are evaluated after every token, so that a text ends at the same token as in
    `generate`, also in the middle of an accepted path. Logits processors are called once per
    committed token, in order, so that stateful ones work.

    Args:
        prepared: the prompt with its processors and criteria.
        record: what to keep for every token: ``scores``, ``logits``, both or nothing.
    """

    def __init__(self, prepared: Prepared, record: Sequence[str] = ()) -> None:
        from transformers.generation.stopping_criteria import (
            EosTokenCriteria,
            MaxLengthCriteria,
            StoppingCriteriaList,
        )

        from sage_core.generation.text_criteria import OneText

        self._processors = prepared.processors
        self._draft_processors = [p for p in self._processors if follows_paths(p)]
        self._end_tokens: set[int] = set()
        self._other_criteria = StoppingCriteriaList()
        self._named_criteria: list[Any] = []
        self._max_length = int(prepared.config.max_length)
        for criterion in prepared.criteria:
            # The two that nearly every call has are evaluated without tensors.
            if type(criterion) is EosTokenCriteria:
                self._end_tokens |= set(criterion.eos_token_id.flatten().tolist())
            elif type(criterion) is MaxLengthCriteria:
                self._max_length = min(self._max_length, int(criterion.max_length))
            elif isinstance(criterion, OneText):
                self._named_criteria.append(criterion)
            else:
                self._other_criteria.append(criterion)
        self.prompt_tokens = prepared.prompt_tokens
        self.length = prepared.prompt_tokens
        self.finished = False
        self.reason = ""
        self.scores_record: list[Tensor] | None = [] if "scores" in record else None
        """Processed scores of every new token, float32 (1, vocabulary), if recorded."""
        self.logits_record: list[Tensor] | None = [] if "logits" in record else None
        """The logits before processing, likewise."""
        self._ids = prepared.input_ids
        self._reserve(min(max(0, self.remaining), LIKELY_TOKENS) + 1)

    @property
    def ids(self) -> Tensor:
        """(1, length) int64: prompt and committed tokens."""
        return self._ids[:, : self.length]

    @property
    def remaining(self) -> int:
        """Tokens left before the length limit."""
        return self._max_length - self.length

    def end_at(self, length: int) -> None:
        """End the text at ``length`` tokens at the latest, its prompt included."""
        self._max_length = min(self._max_length, max(length, self.length + 1))

    @property
    def has_processors(self) -> bool:
        """Whether scores may differ from raw logits."""
        return len(self._processors) > 0

    @property
    def needs_scores(self) -> bool:
        """Whether `scores` must be called for every token."""
        recording = self.scores_record is not None or self.logits_record is not None
        return self.has_processors or recording

    def ends_with(self, token: int) -> bool:
        return token in self._end_tokens

    @torch.inference_mode()
    def append(self, token: int) -> bool:
        """Commit one token; True if the text ends with it: ``reason`` is eos, length, stop, or the
        one that a criterion names."""
        if self.length == self._ids.shape[1]:  # not up front: the limit may be millions
            self._reserve(self.length // 2 + 1)
        self._ids[0, self.length] = token
        self.length += 1
        if token in self._end_tokens:
            self.reason = "eos"
        elif self.length >= self._max_length:
            self.reason = "length"
        elif self._other_criteria and self._stops():
            self.reason = "stop"
        else:
            named = (one.finish_reason for one in self._named_criteria if one(self.ids, None).all())
            self.reason = next(named, "")
        self.finished = bool(self.reason)
        return self.finished

    @torch.inference_mode(False)  # criteria get ordinary tensors
    def _reserve(self, more: int) -> None:
        """Move to a tensor with room for ``more`` tokens; the caller's own stays as it is."""
        room = self._ids.new_empty((1, self.length + more))
        room[:, : self.length] = self._ids[:, : self.length]
        self._ids = room

    def _stops(self) -> bool:
        """Combined by `generate`'s own list and rule, whatever type the criteria return."""
        record: Any = None if self.scores_record is None else tuple(self.scores_record)
        unfinished = torch.ones(1, dtype=torch.int64, device=self._ids.device)
        return not bool((unfinished & ~self._other_criteria(self.ids, record)).max())

    @torch.inference_mode()
    def scores(self, logits: Tensor) -> Tensor:
        """The processed scores of the next token.

        Must be called exactly once per committed token, in order.

        Args:
            logits: (1, vocabulary), any floating dtype.

        Returns:
            float32 (1, vocabulary), on the device of the ids.
        """
        scores = logits.to(dtype=torch.float32, device=self._ids.device, copy=True)
        if self.logits_record is not None:
            self.logits_record.append(scores.clone())
        for processor in self._processors:
            scores = processor(self.ids, scores)
        if self.scores_record is not None:
            self.scores_record.append(scores)
        return scores

    @torch.inference_mode()
    def draft_scores(self, logits: Tensor, paths: Sequence[Sequence[int]]) -> Tensor:
        """A draft's logits with the same processors applied, each with its drafted path as history.

        Processors that may be stateful are left out, since they must see committed tokens only.
        That reduces accepted length, nothing else.

        Args:
            logits: (nodes, vocabulary), any floating dtype.
            paths: drafted tokens between the text and each node, all of one length.

        Returns:
            float32 (nodes, vocabulary), on the device of the ids if any processor applies.
        """
        if not self._draft_processors:
            return logits.to(dtype=torch.float32)
        device = self._ids.device
        scores = logits.to(dtype=torch.float32, device=device, copy=True)
        drafted = torch.tensor([list(p) for p in paths], dtype=torch.int64, device=device)
        history = torch.cat([self.ids.expand(len(paths), -1), drafted], dim=1)
        for processor in self._draft_processors:
            if _is_per_sequence(processor):
                pairs = zip(history.split(1), scores.split(1), strict=True)
                scores = torch.cat([processor(ids, one) for ids, one in pairs])
            else:
                scores = processor(history, scores)
        return scores


_STATELESS = frozenset(
    (
        *("EncoderNoRepeatNGram", "EncoderRepetitionPenalty", "ExponentialDecayLengthPenalty"),
        *("ForcedBOSToken", "ForcedEOSToken", "InfNanRemove", "LogitNormalization", "MinLength"),
        *("MinNewTokensLength", "NoBadWords", "NoRepeatNGram", "PrefixConstrained"),
        *("RepetitionPenalty", "SequenceBias", "SuppressTokens", "SuppressTokensAtBegin"),
        *("Watermark", "Temperature", "TopH", "TopK", "TopP", "MinP", "Typical", "Epsilon", "Eta"),
    )
)
"""Processors of transformers that are functions of ids and scores, without their suffixes."""


def follows_paths(processor: Any) -> bool:
    """Whether a logits processor is stateless, so that it may be applied to drafted paths.

    Most of transformers' own are. A custom one declares it by an attribute ``stateless = True``.
    """
    kind = type(processor)
    if kind.__module__ != "transformers.generation.logits_process":
        return bool(getattr(processor, "stateless", False))
    return kind.__name__.removesuffix("LogitsProcessor").removesuffix("LogitsWarper") in _STATELESS


def _is_per_sequence(processor: Any) -> bool:
    """Whether a processor treats batch entries as different texts: here they are paths of one."""
    from transformers import PrefixConstrainedLogitsProcessor, RepetitionPenaltyLogitsProcessor

    if isinstance(processor, PrefixConstrainedLogitsProcessor):
        return True
    return isinstance(processor, RepetitionPenaltyLogitsProcessor) and isinstance(
        processor.prompt_ignore_length, Tensor
    )

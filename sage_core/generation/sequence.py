"""The text so far, with the rules that the generation config sets for how it goes on and ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sage_core.generation.prepare import Prepared


class TokenSequence:
    """Prompt and committed tokens, one by one, as `generate` would have seen them.

    Every token is appended singly and the stopping criteria are asked after each, so that a text
    ends at the same token as under `generate`, also in the middle of an accepted path. All logits
    processors are called once for every token, in order, as `generate` calls them: also one that
    keeps a state of its own does what it does there.

    Args:
        prepared: the prompt and its rules.
        record: what to keep of every token's choice: ``scores``, ``logits``, both or nothing.
    """

    def __init__(self, prepared: Prepared, record: Sequence[str] = ()) -> None:
        from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

        self._processors = prepared.processors
        self._draft_processors = [p for p in self._processors if follows_paths(p)]
        self._end_tokens: set[int] = set()
        self._other_criteria = []
        self._max_length = int(prepared.config.max_length)
        for criterion in prepared.criteria:
            # The two that nearly every call has are answered without tensors; all others are asked.
            if type(criterion) is EosTokenCriteria:
                self._end_tokens |= set(criterion.eos_token_id.flatten().tolist())
            elif type(criterion) is MaxLengthCriteria:
                self._max_length = min(self._max_length, int(criterion.max_length))
            else:
                self._other_criteria.append(criterion)
        self.prompt_tokens = prepared.prompt_tokens
        self.length = prepared.prompt_tokens
        self.finished = False
        self.reason = ""
        self.scores_record: list[Tensor] | None = [] if "scores" in record else None
        """(1, vocabulary) float32 for every new token: processed scores, if they were asked for."""
        self.logits_record: list[Tensor] | None = [] if "logits" in record else None
        """The same before processing."""
        self._ids = prepared.input_ids.new_empty((1, max(self._max_length, self.length) + 1))
        self._ids[:, : self.length] = prepared.input_ids

    @property
    def ids(self) -> Tensor:
        """(1, length) int64: prompt and committed tokens."""
        return self._ids[:, : self.length]

    @property
    def remaining(self) -> int:
        """How many more tokens the length limit allows."""
        return self._max_length - self.length

    @property
    def has_processors(self) -> bool:
        """Whether raw logits and scores differ."""
        return len(self._processors) > 0

    @property
    def needs_scores(self) -> bool:
        """Whether `scores` must be asked for every token, also by a rule that could do without."""
        recording = self.scores_record is not None or self.logits_record is not None
        return self.has_processors or recording

    def ends_with(self, token: int) -> bool:
        """Whether ``token`` ends a text: nothing ever follows it."""
        return token in self._end_tokens

    @torch.inference_mode()
    def append(self, token: int) -> bool:
        """Commit one token; True when the text ends with it (``reason`` then says why)."""
        self._ids[0, self.length] = token
        self.length += 1
        if token in self._end_tokens:
            self.reason = "eos"
        elif self.length >= self._max_length:
            self.reason = "length"
        elif self._other_criteria and self._stops():
            self.reason = "stop"
        self.finished = bool(self.reason)
        return self.finished

    def _stops(self) -> bool:
        """Whether any other criterion ends the text here, told what `generate` would tell it."""
        record = None if self.scores_record is None else tuple(self.scores_record)
        return any(bool(c(self.ids, record).all()) for c in self._other_criteria)

    @torch.inference_mode()
    def scores(self, logits: Tensor) -> Tensor:
        """What the generation config makes of the raw logits that the next token is chosen from.

        To be called once for every committed token, in order.

        Args:
            logits: (1, vocabulary), any floating dtype.

        Returns:
            float32 scores of the same shape, on the text's device.
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
        """What the same rules make of a draft's logits, each row behind a drafted path of its own.

        Processors that may keep a state are left out: they are for committed tokens only. That
        costs accepted length and nothing else.

        Args:
            logits: (rows, vocabulary), any floating dtype.
            paths: each row's own drafted tokens behind the committed text, all of one length; the
                row's history is the text plus its path.

        Returns:
            float32 scores of the same shape, on the text's device if any rule applies.
        """
        if not self._draft_processors:
            return logits.to(dtype=torch.float32)
        device = self._ids.device
        scores = logits.to(dtype=torch.float32, device=device, copy=True)
        drafted = torch.tensor([list(p) for p in paths], dtype=torch.int64, device=device)
        history = torch.cat([self.ids.expand(len(paths), -1), drafted], dim=1)
        for processor in self._draft_processors:
            if _one_row_at_a_time(processor):
                rows = zip(history.split(1), scores.split(1), strict=True)
                scores = torch.cat([processor(ids, row) for ids, row in rows])
            else:
                scores = processor(history, scores)
        return scores


_KNOWN = frozenset(
    {
        "EncoderNoRepeatNGram",
        "EncoderRepetitionPenalty",
        "ExponentialDecayLengthPenalty",
        "ForcedBOSToken",
        "ForcedEOSToken",
        "InfNanRemove",
        "LogitNormalization",
        "MinLength",
        "MinNewTokensLength",
        "NoBadWords",
        "NoRepeatNGram",
        "PrefixConstrained",
        "RepetitionPenalty",
        "SequenceBias",
        "SuppressTokens",
        "SuppressTokensAtBegin",
        "Watermark",
        "Temperature",
        "TopH",
        "TopK",
        "TopP",
        "MinP",
        "Typical",
        "Epsilon",
        "Eta",
    }
)
"""transformers' own processors that are functions of ids and scores, without their suffixes."""


def follows_paths(processor: Any) -> bool:
    """Whether a logits processor may be asked about drafted tokens, because it keeps no state.

    Most of transformers' own do not. A caller's own is asked if it says so, with an attribute
    ``stateless = True``.
    """
    kind = type(processor)
    if kind.__module__ != "transformers.generation.logits_process":
        return bool(getattr(processor, "stateless", False))
    return kind.__name__.removesuffix("LogitsProcessor").removesuffix("LogitsWarper") in _KNOWN


def _one_row_at_a_time(processor: Any) -> bool:
    """Those of transformers' own that tell the rows of a batch apart: here they are one text's."""
    from transformers import PrefixConstrainedLogitsProcessor, RepetitionPenaltyLogitsProcessor

    if isinstance(processor, PrefixConstrainedLogitsProcessor):
        return True
    return isinstance(processor, RepetitionPenaltyLogitsProcessor) and isinstance(
        processor.prompt_ignore_length, Tensor
    )

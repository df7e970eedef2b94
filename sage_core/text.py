"""The text so far, with the rules that the generation config sets for how it goes on and ends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sage_core.prepare import Prepared


class Text:
    """Prompt and committed tokens, one by one, as `generate` would have seen them.

    Every token is appended singly and the stopping criteria are asked after each, so that a text
    ends at the same token as under `generate`, also in the middle of an accepted path.
    """

    def __init__(self, prepared: Prepared) -> None:
        from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

        self._processors = prepared.processors
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
        return len(self._processors) > 0

    @torch.inference_mode()
    def append(self, token: int) -> bool:
        """Commit one token; True when the text ends with it (``reason`` then says why)."""
        self._ids[0, self.length] = token
        self.length += 1
        if token in self._end_tokens:
            self.reason = "eos"
        elif self.length >= self._max_length:
            self.reason = "length"
        elif any(bool(c(self.ids, None).all()) for c in self._other_criteria):
            self.reason = "stop"
        self.finished = bool(self.reason)
        return self.finished

    @torch.inference_mode()
    def scores(self, logits: Tensor, paths: Sequence[Sequence[int]] | None = None) -> Tensor:
        """What the generation config makes of raw logits: float32 scores of the same shape.

        Args:
            logits: (rows, vocabulary), any floating dtype.
            paths: each row's own drafted tokens behind the committed text, all of one length; the
                row's history is the text plus its path. None: the text itself.
        """
        scores = logits.to(dtype=torch.float32, copy=True)
        if not self.has_processors:
            return scores
        history = self.ids
        if paths is not None:
            drafted = torch.tensor(
                [list(p) for p in paths], dtype=torch.int64, device=history.device
            )
            history = torch.cat([history.expand(len(paths), -1), drafted], dim=1)
        return self._processors(history.to(scores.device), scores)

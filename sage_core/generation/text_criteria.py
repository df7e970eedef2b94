"""Stopping criteria about the text itself: it repeats itself, or has its sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteria

from sage_core.generation.sentences import sentence_ends
from sage_core.models.detokenize import Detokenizer

__all__ = ["OneText", "Repetition", "Sentences"]

LONGEST = 128
"""Tokens of the longest passage whose repetition is noticed."""
TIMES = 4
"""How often a passage is repeated before the text ends."""
TOKENS = 48
"""How many tokens it has then at least, all repetitions together: rows of dots, rules of tables
and the like are shorter."""


class OneText(StoppingCriteria):
    """A criterion for one text, which is called after every token.

    Args:
        prompt_tokens: length of the prompt in the ids.
    """

    finish_reason = "stop"
    """What the text ends with because of it."""

    def __init__(self, prompt_tokens: int) -> None:
        self._seen = prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        new = input_ids[0, self._seen :].tolist()
        self._seen += len(new)
        ends = any(self._ends(token) for token in new)
        return torch.full((input_ids.shape[0],), ends, device=input_ids.device)

    def _ends(self, token: int) -> bool:
        """Whether the text ends with one more token."""
        raise NotImplementedError


class Repetition(OneText):
    """Ends a text whose last tokens are one passage over and over.

    The passage has at most `LONGEST` tokens and comes `TIMES` times or more, so that there are at
    least `TOKENS` tokens. Tokens of the prompt do not count.
    """

    finish_reason = "repetition"

    def __init__(self, prompt_tokens: int) -> None:
        super().__init__(prompt_tokens)
        periods = np.arange(1, LONGEST + 1)
        self._wanted = np.maximum(TIMES * periods, TOKENS) - periods
        self._last = np.full(LONGEST, -1, np.int64)
        """The last tokens, the latest first."""
        self._equal = np.zeros(LONGEST, np.int64)
        """By period: how many of the latest tokens equal the one that many before them."""

    def _ends(self, token: int) -> bool:
        self._equal = np.where(self._last == token, self._equal + 1, 0)
        self._last = np.concatenate(([token], self._last[:-1]))
        return bool((self._equal >= self._wanted).any())


class Sentences(OneText):
    """Ends a text that has gone on behind its last wanted sentence.

    Args:
        prompt_tokens: length of the prompt in the ids.
        most: the number of sentences.
        detokenizer: of the new tokens.
        answer: the answer in the text so far.
    """

    def __init__(
        self,
        prompt_tokens: int,
        most: int,
        detokenizer: Detokenizer,
        answer: Callable[[str], str],
    ) -> None:
        super().__init__(prompt_tokens)
        self._most = most
        self._detokenizer = detokenizer
        self._answer = answer

    def _ends(self, token: int) -> bool:
        self._detokenizer.push([token])
        text = self._answer(self._detokenizer.text)
        ends = sentence_ends(text)
        return len(ends) >= self._most and bool(text[ends[self._most - 1] :].strip())

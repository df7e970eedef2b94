"""Incremental detokenization that never gives out an incomplete character."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Decodes a growing list of tokens.

    A character may span several tokens, and a token's text may depend on the one before it (a
    leading space, for instance). So a window of recent tokens is decoded without and with the new
    ones, and the difference is the new text. An incomplete character at its end is held back. Text
    that was given out never changes.

    Args:
        tokenizer: of transformers.
        before: tokens that the new ones continue: their text is not given out.
        named: special tokens whose text is given out, by their ids.
    """

    def __init__(
        self, tokenizer: Any, before: Sequence[int] = (), named: Mapping[int, str] | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._named = named or {}
        self._tokens = list(before)
        self._window = 0
        """Start of the window, as an index of tokens."""
        self._settled = len(self._tokens)
        """Number of tokens whose text has been given out."""
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """The text so far, without special tokens."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def push(self, tokens: Sequence[int]) -> None:
        """Add new tokens."""
        for token in tokens:
            self._tokens.append(token)
            if token in self._named:
                self._settle(final=True)
                self._pieces.append(self._named[token])
        self._settle(final=False)

    def finish(self) -> None:
        """Give out the text held back; an incomplete character becomes U+FFFD."""
        self._settle(final=True)

    def token_text(self, token_id: int) -> str:
        """The text of one token; special tokens by name, incomplete characters as U+FFFD."""
        return str(self._decode([token_id], skip_special=False))

    def _settle(self, final: bool) -> None:
        # A character has at most four bytes, so an incomplete one spans at most three tokens. If
        # the text without them ends in U+FFFD too, those bytes never become a character.
        for waiting in (0,) if final else (0, 1, 2, 3):
            end = len(self._tokens) - waiting
            if end <= self._settled:
                return
            text = self._decode(self._tokens[self._window : end])
            if waiting == 3 or final or not text.endswith(REPLACEMENT):
                break
        before = self._decode(self._tokens[self._window : self._settled])
        self._pieces.append(text[len(before) :])
        self._window, self._settled = self._settled, end

    def _decode(self, tokens: Sequence[int], skip_special: bool = True) -> str:
        text = self._tokenizer.decode(
            list(tokens), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
        )
        return str(text)

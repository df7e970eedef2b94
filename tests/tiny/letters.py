"""The least a stop-string criterion needs of a tokenizer."""

from __future__ import annotations

from typing import Any

from tests.tiny.families import VOCAB


class Letters:
    """Two letters for every token."""

    def __init__(self, size: int = VOCAB) -> None:
        self._words = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(size)]

    def get_vocab(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self._words)}

    def __len__(self) -> int:
        return len(self._words)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self._words[i] for i in ids]

    def _convert_id_to_token(self, token: int) -> str:
        return self._words[token]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        table = self.get_vocab()
        return {"input_ids": [table[text[i : i + 2]] for i in range(0, len(text), 2)]}

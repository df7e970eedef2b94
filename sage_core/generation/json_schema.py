"""Text that follows a JSON schema: a logits processor over llguidance, and its forced tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_core.errors import OptionError
from sage_core.files.reading import parse_json


class JsonGrammar:
    """A logits processor that allows only tokens that keep the text a prefix of valid JSON.

    A function of ids and scores for one prompt, so that it applies to drafted paths in any order.
    The text may end only where the JSON is complete.

    Args:
        schema: a JSON schema, as text or parsed.
        tokenizer: a fast tokenizer of transformers.
        vocab_size: columns of the target's logits.
        ends: end-of-text ids.
        prompt_tokens: length of the prompt in the ids.

    Raises:
        OptionError: llguidance is not installed, the tokenizer is not a fast one, or the schema is
            invalid or not supported by llguidance.
    """

    stateless = True

    def __init__(
        self,
        schema: str | Mapping[str, Any],
        tokenizer: Any,
        vocab_size: int,
        ends: Sequence[int],
        prompt_tokens: int,
    ) -> None:
        library = _llguidance()
        grammar = _grammar(library, schema)
        try:
            vocabulary = library.hf.from_tokenizer(
                tokenizer, n_vocab=vocab_size, eos_token=list(ends)
            )
        except ValueError as error:
            raise OptionError(f"a JSON schema needs a fast tokenizer: {error}") from error
        failed, messages = library.LLMatcher.validate_grammar_with_warnings(grammar, vocabulary)
        if failed:
            reason = " ".join(" ".join(messages).split())
            raise OptionError(f"the JSON schema cannot be used: {reason}")
        self._matcher = library.LLMatcher(vocabulary, grammar, log_level=0)
        self._prompt_tokens = prompt_tokens
        self._consumed: list[int] = []
        """Tokens that the matcher has consumed."""

    @torch.inference_mode()
    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        allowed = np.ones(tuple(scores.shape), dtype=bool)
        for mask, history in zip(allowed, ids[:, self._prompt_tokens :].tolist(), strict=True):
            if self._match(history):
                bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
                bits = np.unpackbits(bits, bitorder="little")[: scores.shape[1]]
                mask[: len(bits)] = bits
                mask[len(bits) :] = False
        return scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -torch.inf)

    def forced(self, ids: Tensor) -> list[int]:
        """The tokens that must follow ``ids`` (1, n), in the tokenizer's canonical form."""
        if not self._match(ids[0, self._prompt_tokens :].tolist()):
            return []
        return list(self._matcher.compute_ff_tokens())

    def _match(self, tokens: list[int]) -> bool:
        """Make the matcher consume exactly ``tokens``; False if they violate the grammar."""
        same = 0
        while same < min(len(tokens), len(self._consumed)) and tokens[same] == self._consumed[same]:
            same += 1
        self._matcher.rollback(len(self._consumed) - same)
        new = tokens[same:]
        read = self._matcher.try_consume_tokens(new)
        self._consumed = tokens[: same + read]
        return read == len(new)


def schema_processors(
    schema: str | Mapping[str, Any], target: Any, tokenizer: Any, inputs: Mapping[str, Any]
) -> Any:
    """A `LogitsProcessorList` that keeps the answer to ``inputs`` within a JSON schema.

    Raises:
        OptionError: see `JsonGrammar`.
    """
    from transformers import LogitsProcessorList

    ends = target.generation_config.eos_token_id or tokenizer.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    vocab_size = int(target.get_output_embeddings().weight.shape[0])
    prompt_tokens = int(inputs["input_ids"].shape[1])
    return LogitsProcessorList([JsonGrammar(schema, tokenizer, vocab_size, ends, prompt_tokens)])


def _llguidance() -> Any:
    try:
        import llguidance.hf
    except ImportError as error:
        raise OptionError(
            "a JSON schema needs llguidance: pip install 'sage-vlm[grammar]'"
        ) from error
    return llguidance


def _grammar(library: Any, schema: str | Mapping[str, Any]) -> str:
    parsed = schema
    if isinstance(schema, str):
        parsed = parse_json(schema, "the JSON schema", error=OptionError)
    if not isinstance(parsed, Mapping):
        raise OptionError('the JSON schema must be an object, as in {"type": "object"}')
    # Without optional whitespace more tokens are forced.
    compact = {"whitespace_flexible": False}
    return str(library.LLMatcher.grammar_from_json_schema(dict(parsed), overrides=compact))

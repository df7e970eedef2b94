"""Text that follows a JSON schema: a logits processor over llguidance, and what it leaves no choice
about as drafts that cost nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_core.errors import OptionError


class JsonGrammar:
    """A logits processor that allows only tokens by which the text stays on the way to valid JSON.

    A function of ids and scores for one prompt: it may be asked about drafted paths in any order.
    The text may end only where the JSON is whole.

    Args:
        schema: a JSON schema, as text or parsed.
        tokenizer: transformers' own, a fast one.
        vocab_size: rows of the target's head.
        ends: ids that end a text.
        prompt_tokens: where the text begins in the ids.

    Raises:
        OptionError: llguidance is not installed, the tokenizer is no fast one, or the schema is
            none or uses what llguidance does not know.
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
            words = library.hf.from_tokenizer(tokenizer, n_vocab=vocab_size, eos_token=list(ends))
        except ValueError as error:
            raise OptionError(f"a JSON schema needs a fast tokenizer: {error}") from error
        failed, messages = library.LLMatcher.validate_grammar_with_warnings(grammar, words)
        if failed:
            reason = " ".join(" ".join(messages).split())
            raise OptionError(f"the JSON schema cannot be used: {reason}")
        self._matcher = library.LLMatcher(words, grammar, log_level=0)
        self._begins = prompt_tokens
        self._held: list[int] = []
        """What the matcher has read."""

    @torch.inference_mode()
    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        allowed = np.ones(tuple(scores.shape), dtype=bool)
        for row, history in enumerate(ids[:, self._begins :].tolist()):
            if self._go_to(history):
                bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
                known = np.unpackbits(bits, bitorder="little")[: scores.shape[1]]
                allowed[row, : len(known)] = known
                allowed[row, len(known) :] = False
        return scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -torch.inf)

    def forced(self, ids: Tensor) -> list[int]:
        """The tokens that must follow (1, n) ``ids``, as the tokenizer would write them."""
        if not self._go_to(ids[0, self._begins :].tolist()):
            return []
        return list(self._matcher.compute_ff_tokens())

    def _go_to(self, tokens: list[int]) -> bool:
        """Have the matcher read exactly these; False if another rule has led out of the grammar."""
        same = 0
        while same < min(len(tokens), len(self._held)) and tokens[same] == self._held[same]:
            same += 1
        self._matcher.rollback(len(self._held) - same)
        new = tokens[same:]
        read = self._matcher.try_consume_tokens(new)
        self._held = tokens[: same + read]
        return read == len(new)


def schema_processors(
    schema: str | Mapping[str, Any], target: Any, tokenizer: Any, inputs: Mapping[str, Any]
) -> Any:
    """transformers' list of the processors of an answer to ``inputs`` that is JSON by a schema.

    Raises:
        OptionError: see `JsonGrammar`.
    """
    from transformers import LogitsProcessorList

    ends = target.generation_config.eos_token_id or tokenizer.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    words = int(target.get_output_embeddings().weight.shape[0])
    prompt = int(inputs["input_ids"].shape[1])
    return LogitsProcessorList([JsonGrammar(schema, tokenizer, words, ends, prompt)])


def _llguidance() -> Any:
    try:
        import llguidance.hf
    except ImportError as error:
        raise OptionError(
            "a JSON schema needs llguidance: pip install 'sage-vlm[grammar]'"
        ) from error
    return llguidance


def _grammar(library: Any, schema: str | Mapping[str, Any]) -> str:
    try:
        parsed = json.loads(schema) if isinstance(schema, str) else dict(schema)
    except ValueError as error:
        raise OptionError(f"the JSON schema is no JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise OptionError('the JSON schema must be an object, as in {"type": "object"}')
    # Without optional white space more is forced, and there is one way to write a value.
    compact = {"whitespace_flexible": False}
    return str(library.LLMatcher.grammar_from_json_schema(parsed, overrides=compact))

"""How long a text may be: the context that the model was made for, and where it ends."""

from __future__ import annotations

from typing import Any

from sage_core.engine.trial import Verdict
from sage_core.errors import InputError, OptionError
from sage_core.generation.sequence import TokenSequence
from sage_core.models.small_config import context_length


def refuse_long_prompt(config: Any, tokens: int, media_tokens: int = 0) -> None:
    """Refuse a prompt of ``tokens`` tokens, ``media_tokens`` of which represent files.

    Raises:
        InputError: it is longer than the model's context because of the files.
        OptionError: its text alone is.
    """
    context = context_length(config)
    if context is None or tokens <= context:
        return
    text = tokens - media_tokens
    if media_tokens and text <= context:
        raise InputError(
            f"the files and the prompt have {tokens} tokens ({media_tokens} of the files), but the "
            f"model's context has {context}: give fewer or smaller files, or fewer frames"
        )
    raise OptionError(
        f"the prompt has {text} tokens, but the model's context has {context}: shorten it"
    )


def limit_text(verdict: Verdict, sequence: TokenSequence) -> None:
    """End a text where the model cannot read more.

    Raises:
        OptionError: from some length on, passes over trees would not reproduce the model's text,
            and this one may become longer.
    """
    if verdict.limit is None:
        return
    # The last token of a text is not read.
    longest, asked = verdict.limit + 1, sequence.length + sequence.remaining
    if verdict.ends:
        sequence.end_at(longest)
    elif asked > longest:
        raise OptionError(
            f"a text of up to {asked} tokens was asked for, but beyond {verdict.limit} "
            f"({verdict.limited_by}) this model cannot be followed exactly: ask for at most "
            f"{max(0, longest - sequence.length)} new tokens"
        )


def context_reached(config: Any, tokens: int) -> int | None:
    """The model's context, if a text of ``tokens`` tokens fills it; else None."""
    context = context_length(config)
    return context if context is not None and tokens >= context else None

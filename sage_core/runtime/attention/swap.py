"""Another attention function in a decoder, for the length of a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask


@contextmanager
def attending_by(config: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """While open, a decoder with ``config`` attends by ``function``.

    It is entered under ``name`` in transformers' `AttentionInterface`, again if it is there
    already. ``config`` is the decoder's own; what it attended by is put back at the end.
    """
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, sdpa_mask)
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before

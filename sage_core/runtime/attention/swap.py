"""Replacing a decoder's attention function for one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask


@contextmanager
def attending_by(config: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """While open, a decoder with ``config`` uses ``function`` for attention.

    The function is registered as ``name`` in transformers' `AttentionInterface`. The
    implementation of ``config``, the decoder's own, is restored at the end.
    """
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, sdpa_mask)
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before

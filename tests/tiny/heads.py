"""Untrained heads of every kind for the tiny targets."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from sage_core.drafts.head.checkpoint import placed
from sage_core.drafts.head.init import new_head
from sage_core.drafts.head.module import Head
from tests.tiny.pairs import build_pair

KINDS: dict[str, dict[str, Any]] = {
    "head": {"kind": "head"},
    **{
        mode: {"kind": "specvlm", "mode": mode}
        for mode in (
            *("weighted", "concat", "select"),
            *("prune", "pool", "convolution", "resampler", "text"),
        )
    },
    "vispec": {"kind": "vispec"},
}
LATEST = ("llava", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "llama")


@lru_cache(maxsize=64)
def head_for(family: str, kind: str) -> Head:
    """An untrained head; every part of it does something."""
    torch.manual_seed(0)
    head = new_head(build_pair(family).target, name=f"tiny/{family}", **KINDS[kind])
    return _stirred(head)


def good_head(target: Any, kind: str) -> Head:
    """A head that is right about as often as the draft of `build_pair`, for a tiny target.

    Its layer is the target's first one, fed with embeddings and a little of the features, so that
    it says what the target would say without its later layers.
    """
    torch.manual_seed(0)
    head = new_head(target, name="tiny", **KINDS[kind])
    first = target.get_decoder().layers[0].state_dict()
    size = head.config.hidden_size
    with torch.no_grad():
        head.decoder.layers[0].load_state_dict(first)
        head.fuse.weight.copy_(torch.cat([0.1 * torch.eye(size), torch.eye(size)], dim=1))
    return placed(_stirred(head), target)


@torch.no_grad()
def _stirred(head: Head) -> Head:
    """The head with noise in what begins as nothing: every part of it does something."""
    for name, weight in head.named_parameters():
        if name.startswith(("compressor", "looker", "join")):
            weight.add_(0.05 * torch.randn_like(weight))
    return head

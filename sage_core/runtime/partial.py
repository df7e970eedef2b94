"""A prompt read in part: the decoder is given some of its tokens, at their own positions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


@contextmanager
def reading_only(decoder: Any, positions: np.ndarray | None, length: int) -> Iterator[None]:
    """While open, ``decoder`` reads of a prompt of ``length`` tokens only those at ``positions``.

    The model around it runs unchanged: it encodes the pictures and merges them with the text,
    and what it then hands to its decoder is cut to the kept columns, rotary positions (of one or
    of three axes) and per-layer visual features included. With None everything is read.
    """
    if positions is None:
        yield
        return

    def cut(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, _cut(kwargs, torch.from_numpy(positions), length)

    handle = decoder.register_forward_pre_hook(cut, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _cut(kwargs: dict[str, Any], positions: Tensor, length: int) -> dict[str, Any]:
    out = dict(kwargs)
    seen = out.get("inputs_embeds")
    first = seen if seen is not None else out["input_ids"]
    keep = positions.to(first.device)
    for name in ("inputs_embeds", "input_ids"):
        if out.get(name) is not None:
            out[name] = out[name][:, keep]
    given = out.get("position_ids")
    if given is None:
        given = torch.arange(length, device=first.device)[None]
    out["position_ids"] = given[..., keep]
    # The prompt has no padding and the cut keeps its order: plain causal attention is right.
    out["attention_mask"] = None
    for name in ("cache_position", "visual_pos_masks"):
        value = out.get(name)
        if value is None:
            continue
        if name == "cache_position":
            out[name] = value[: len(keep)]
            continue
        out[name] = value[:, keep]
        among = value[0, keep].nonzero()[:, 0]  # kept columns that are visual
        index = (value[0].cumsum(0) - 1)[keep[among]]  # their numbers among all visual ones
        features = out.get("deepstack_visual_embeds")
        if features is not None:
            out["deepstack_visual_embeds"] = [layer[index] for layer in features]
    return out

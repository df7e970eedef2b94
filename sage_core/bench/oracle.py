"""Exactness: where and by how much a decoder's output differs from transformers' `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sage_core.bench.records import Mismatch, first_difference

TIE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3.2e-2}
"""Relative difference of two logits up to which rounding can swap them."""


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators and restore them afterwards; None leaves them alone."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def mismatch(
    target: Any,
    inputs: Mapping[str, Any],
    expected: Sequence[int],
    got: Sequence[int],
    seed: int | None,
    options: Mapping[str, Any],
) -> Mismatch:
    """The first difference of two texts that are not equal, given as new tokens.

    Args:
        target: the model whose scores give the margin.
        inputs: of both texts; the prompt is ``input_ids``.
        expected: what `generate` writes.
        got: what the other decoder writes.
        seed: of sampling; None for greedy decoding.
        options: further arguments of `generate`.
    """
    position, want, have = first_difference(expected, got)
    if want is None or have is None:
        return Mismatch(position, want, have)
    with seeded(seed, target.device):
        scores = _scores(target, inputs, list(expected[:position]), options)
    if scores is not None and seed is not None:
        scores = scores + gumbel_noise(seed, position, scores)
        if int(scores.argmax()) != want:  # not drawn as `torch.multinomial` draws
            scores = None
    if scores is None:
        return Mismatch(position, want, have)
    margin = float(scores[want] - scores[have])
    scale = max(1.0, abs(float(scores[want])))
    return Mismatch(position, want, have, margin, abs(margin) <= TIE[target.dtype] * scale)


def _scores(
    target: Any, inputs: Mapping[str, Any], before: list[int], options: Mapping[str, Any]
) -> Tensor | None:
    """(vocabulary,) processed scores that `generate` chose the token behind ``before`` from.

    None if `generate` itself writes other tokens, or ends before.
    """
    output = target.generate(
        **inputs,
        **{"do_sample": False, **options},
        output_scores=True,
        return_dict_in_generate=True,
    )
    prompt, position = inputs["input_ids"].shape[1], len(before)
    if output.sequences[0, prompt : prompt + position].tolist() != before:
        return None
    return output.scores[position][0].float() if position < len(output.scores) else None


def gumbel_noise(seed: int, position: int, like: Tensor) -> Tensor:
    """(vocabulary,) Gumbel noise of the token drawn at ``position``, to be added to its scores.

    `torch.multinomial` draws the token with the largest p / e, e exponentially distributed, which
    is the argmax of log p - log e: the Gumbel-max trick.
    """
    generator = torch.Generator(like.device).manual_seed(seed)
    exponential = torch.empty(1, len(like), device=like.device)
    for _ in range(position + 1):
        exponential.exponential_(generator=generator)
    return -exponential[0].log()

"""The oracle: what `generate` says, and where and by how much a decoder differs from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

# How close two logits must be, relative to their size, for a difference in rounding to swap them.
TIE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3.2e-2}


@dataclass(frozen=True)
class Mismatch:
    """The first new token at which a decoder's output is not the oracle's.

    ``expected`` or ``got`` is None where one text had ended; ``margin`` is the oracle's score of
    its own token minus that of the other, by the same processors that `generate` applied, and None
    when one of them had ended or `generate` itself writes another text before the position. A
    ``near_tie`` is a margin within what rounding explains.
    """

    position: int
    expected: int | None
    got: int | None
    margin: float | None
    near_tie: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def reference(target: Any, inputs: dict[str, Any], **options: Any) -> Tensor:
    """(1, prompt + new tokens): greedy decoding by transformers itself."""
    return target.generate(**inputs, **{"do_sample": False, **options})


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """torch's global generators seeded, as they were afterwards; None leaves them alone."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def first_mismatch(
    target: Any,
    inputs: dict[str, Any],
    expected: Tensor,
    got: Tensor,
    seed: int | None = None,
    **options: Any,
) -> Mismatch | None:
    """None if two sequences of shape (1, n) are equal, else their first difference, explained.

    ``seed`` is what sampled texts were drawn with.
    """
    if got.shape == expected.shape and torch.equal(got, expected):
        return None
    prompt = inputs["input_ids"].shape[1]
    wanted, found = expected[0, prompt:].tolist(), got[0, prompt:].tolist()
    same = [a == b for a, b in zip(wanted, found, strict=False)]
    position = same.index(False) if False in same else len(same)
    want = wanted[position] if position < len(wanted) else None
    have = found[position] if position < len(found) else None
    if want is None or have is None:
        return Mismatch(position, want, have, None, False)
    with seeded(seed, target.device):
        scores = _scores(target, inputs, position, wanted[:position], options)
    if scores is not None and seed is not None:
        scores = scores + gumbel_noise(seed, position, scores)
        if int(scores.argmax()) != want:  # drawn in another way than is known here
            scores = None
    if scores is None:
        return Mismatch(position, want, have, None, False)
    margin = float(scores[want] - scores[have])
    scale = max(1.0, abs(float(scores[want])))
    return Mismatch(position, want, have, margin, abs(margin) <= TIE[target.dtype] * scale)


def _scores(
    target: Any, inputs: dict[str, Any], position: int, before: list[int], options: dict[str, Any]
) -> Tensor | None:
    """(vocabulary,) processed scores that `generate` chose the new token at ``position`` from.

    None if `generate` does not write the tokens ``before`` it.
    """
    output = target.generate(
        **inputs,
        **{"do_sample": False, **options},
        output_scores=True,
        return_dict_in_generate=True,
    )
    prompt = inputs["input_ids"].shape[1]
    if output.sequences[0, prompt : prompt + position].tolist() != before:
        return None
    if position >= len(output.scores):
        return None
    return output.scores[position][0].float()


def gumbel_noise(seed: int, position: int, like: Tensor) -> Tensor:
    """(vocabulary,) what chance adds to the scores of the token drawn at ``position``.

    `torch.multinomial` draws one token as the least of exponential times over probabilities, which
    is the arg max of log probabilities less the logarithms of the times.
    """
    generator = torch.Generator(like.device).manual_seed(seed)
    times = torch.empty(1, len(like), device=like.device)
    for _ in range(position + 1):
        times.exponential_(generator=generator)
    return -times[0].log()


def check_steps(steps: tuple[Any, ...], new_tokens: list[int]) -> None:
    """The step records must tell the same story as the sequence.

    Raises:
        AssertionError: they do not.
    """
    told = [token for step in steps for token in step.tokens]
    assert told == new_tokens, "the steps' tokens are not the sequence's"
    assert [step.index for step in steps] == list(range(len(steps)))
    assert [step.finished for step in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[0].is_prefill and not steps[0].tree.tokens and len(steps[0].tokens) == 1
    for before, step in pairwise(steps):
        assert step.root == before.tokens[-1]
        path = step.accepted
        assert path == (step.tree.path(path[-1]) if path else ())
        drafted = [step.tree.tokens[node] for node in path]
        assert list(step.tokens[: len(path)]) == drafted
        extra = len(step.tokens) - len(path)
        assert extra == 1 or (extra == 0 and step.finished), "a step adds the target's own token"
        if extra == 1 and not step.finished:
            last = path[-1] if path else -1
            assert step.tree.child(last, step.tokens[-1]) is None, "the path was cut short"

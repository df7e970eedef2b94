"""The oracle: what `generate` says, and where and by how much a decoder differs from it."""

from __future__ import annotations

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


def first_mismatch(
    target: Any,
    inputs: dict[str, Any],
    expected: Tensor,
    got: Tensor,
    *,
    seed: int | None = None,
    **options: Any,
) -> Mismatch | None:
    """None if two sequences of shape (1, n) are equal, else their first difference, explained.

    ``seed`` is what `generate` drew a sampled text under: its luck then counts as part of scores.
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
    scores = _scores(target, inputs, position, wanted[: position + 1], options, seed)
    if scores is None:
        return Mismatch(position, want, have, None, False)
    margin = float(scores[want] - scores[have])
    scale = max(1.0, abs(float(scores[want])))
    return Mismatch(position, want, have, margin, abs(margin) <= TIE[target.dtype] * scale)


def _scores(
    target: Any,
    inputs: dict[str, Any],
    position: int,
    text: list[int],
    options: dict[str, Any],
    seed: int | None,
) -> Tensor | None:
    """(vocabulary,) processed scores of which `generate` chose the greatest at ``position``.

    None if it does not write ``text``, the tokens up to that one.
    """
    if seed is not None:
        torch.manual_seed(seed)
    output = target.generate(
        **inputs,
        **{"do_sample": False, **options},
        output_scores=True,
        return_dict_in_generate=True,
    )
    prompt = inputs["input_ids"].shape[1]
    if output.sequences[0, prompt : prompt + position + 1].tolist() != text:
        return None
    if position >= len(output.scores):
        return None
    scores: Tensor = output.scores[position][0].float()
    if seed is None:
        return scores
    lucky = scores + _luck(seed, position, scores)
    return lucky if int(lucky.argmax()) == text[-1] else None


def _luck(seed: int, position: int, like: Tensor) -> Tensor:
    """(vocabulary,) what chance adds to the scores of the token drawn at ``position``.

    `torch.multinomial` takes the token with the greatest p / e, each e drawn from an exponential
    distribution: that with the greatest score - log e.
    """
    generator = torch.Generator(like.device).manual_seed(seed)
    for _ in range(position + 1):
        drawn = torch.empty_like(like[None]).exponential_(1, generator=generator)
    return -drawn[0].log()


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

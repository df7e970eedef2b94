"""transformers' own text, and checks of a decoder's output against it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sage_core.bench.oracle import mismatch
from sage_core.bench.records import Mismatch

__all__ = ["check_steps", "first_mismatch", "reference"]


def reference(target: Any, inputs: dict[str, Any], **options: Any) -> Tensor:
    """(1, prompt + new tokens): greedy decoding by transformers itself."""
    return target.generate(**inputs, **{"do_sample": False, **options})


def first_mismatch(
    target: Any,
    inputs: Mapping[str, Any],
    expected: Tensor,
    got: Tensor,
    seed: int | None = None,
    **options: Any,
) -> Mismatch | None:
    """The first difference of two sequences of shape (1, prompt + new); None if they are equal.

    ``expected`` is the output of `generate`; the other arguments are those of `mismatch`.
    """
    if got.shape == expected.shape and torch.equal(got, expected):
        return None
    prompt = inputs["input_ids"].shape[1]
    wanted, found = expected[0, prompt:].tolist(), got[0, prompt:].tolist()
    return mismatch(target, inputs, wanted, found, seed, options)


def check_steps(steps: tuple[Any, ...], new_tokens: list[int]) -> None:
    """Check that step records agree with the sequence of new tokens.

    Raises:
        AssertionError: they do not.
    """
    committed = [token for step in steps for token in step.tokens]
    assert committed == new_tokens, "the steps' tokens are not the sequence's"
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
        assert extra == 1 or (extra == 0 and step.finished), "a step has no bonus token"
        if extra == 1 and not step.finished:
            last = path[-1] if path else -1
            assert step.tree.child(last, step.tokens[-1]) is None, "the path was cut short"

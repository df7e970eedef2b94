"""Time passes of a pair that has read its prompt, without leaving a trace in its caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
import torch

from sage_core.drafts.drafter import TreeDrafter
from sage_core.runtime.runner import Runner
from sage_core.trees.pass_costs import Costs, Curve

TARGET_SIZES = (1, 2, 4, 8, 16, 32, 64)
DRAFT_SIZES = (1, 2, 4, 8, 12)
REPEATS = 3
_PASSES = REPEATS + 1


def rehearse(target: Runner, drafter: TreeDrafter, branching: int) -> Costs:
    """What passes over trees of several sizes cost now, behind the text that both have read.

    A draft pass counts with the ranking of its candidates. The least of `REPEATS` counts, and
    not the first pass of a size, since it may allocate.
    """

    def verify(tokens: int) -> None:
        target.forward([0] * tokens, [0] * tokens, np.eye(tokens, dtype=bool))
        target.commit([0])  # each pass behind a longer text, as in earnest

    verifying = _curve(verify, TARGET_SIZES, target.device)
    target.forget(len(TARGET_SIZES) * _PASSES)
    drafting = _curve(lambda rows: drafter.rehearse(rows, branching), DRAFT_SIZES, target.device)
    drafter.rehearsed(len(DRAFT_SIZES) * _PASSES)
    return Costs(verifying, drafting)


def _curve(act: Callable[[int], None], sizes: Sequence[int], device: torch.device) -> Curve:
    # A busy machine only ever adds time: the least of several is nearest to what a pass costs, and
    # a pass over fewer tokens costs no more than one over more.
    times = [min([_seconds(act, size, device) for _ in range(_PASSES)][1:]) for size in sizes]
    points = [(size, min(times[i:])) for i, size in enumerate(sizes)]
    return tuple(points)


def _seconds(act: Callable[[int], None], size: int, device: torch.device) -> float:
    started = perf_counter()
    act(size)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - started

"""What passes cost on this machine: measured behind the prompt, and corrected by the text.

A planner that weighs costs gets them from the cost store, or from a few timed passes over both
caches that leave no trace in them. Timing is bounded: at most 5% of the expected decoding time, or
half a second, before the first tree; what is left is timed between later steps, at 5% of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from sage_core.drafts.tree_drafter import TreeDrafter
from sage_core.engine.costs.store import CostStore
from sage_core.runtime.passes import Passes
from sage_core.runtime.runner import Runner
from sage_core.runtime.tree_runner import PassRequest
from sage_core.trees.pass_costs import Costs, Curve
from sage_core.trees.policy import TreePlanner
from sage_core.trees.steps import Step

SHARE = 0.05
"""Of the decoding time that may be spent on timing passes."""
MIN_SECONDS = 0.5
"""Timing may take this long before the first tree, however short the text."""
REPEATS = 4
"""Passes of a size; the first may allocate and is not counted where there are others."""
_NEEDED = 3
SIZES: tuple[tuple[str, int], ...] = (
    *(("target", 1), ("draft", 1), ("target", 16)),  # without these nothing can be planned
    *(("draft", 4), ("target", 64), ("target", 4), ("target", 8), ("target", 32)),
    *(("draft", 2), ("draft", 8), ("target", 2), ("draft", 12)),
)
"""Tokens of the timed passes of each model, the most informative first."""


class PassTimer:
    """Times passes of a pair over several sizes, as far as the time allows.

    Args:
        target: has read the prompt.
        drafter: has read it too.
        branching: candidates that are ranked below each drafted node.
    """

    def __init__(self, target: Runner, drafter: TreeDrafter, branching: int) -> None:
        self._target = target
        self._drafter = drafter
        self._branching = branching
        self._left = list(SIZES)
        self._seconds: dict[str, dict[int, float]] = {"target": {}, "draft": {}}

    @property
    def done(self) -> bool:
        """Whether all sizes have been timed."""
        return not self._left

    def start(self, tokens: int) -> Passes[None]:
        """Time what is needed, and more if a text of so many ``tokens`` is long enough for it."""
        begun = perf_counter()
        while self._left:
            limit = MIN_SECONDS
            if self._seconds["target"]:
                limit = max(limit, SHARE * tokens * self._seconds["target"][1])
            until = begun + limit
            if len(SIZES) - len(self._left) >= _NEEDED and perf_counter() > until:
                return
            yield from self._time(until)

    def resume(self, seconds: float) -> Passes[float]:
        """Time one more size if it fits in so many ``seconds``; what it took, or 0.0."""
        model, size = self._left[0]
        known = self._seconds[model]
        if known[max(known)] * max(1.0, size / max(known)) > seconds:
            return 0.0
        begun = perf_counter()
        yield from self._time(begun + seconds)
        return perf_counter() - begun

    def _time(self, until: float) -> Passes[None]:
        """Time the next size; it is repeated up to the time ``until``."""
        model, size = self._left.pop(0)
        times: list[float] = []
        while not times or (len(times) < REPEATS and perf_counter() < until):
            begun = perf_counter()
            yield from self._pass(model, size)
            if self._target.device.type == "cuda":
                torch.cuda.synchronize(self._target.device)
            times.append(perf_counter() - begun)
        if model == "target":
            self._target.truncate(len(times))
        else:
            self._drafter.discard_timed(len(times))
        # A busy machine only ever adds time: the least of several is nearest to the cost.
        self._seconds[model][size] = min(times[1:] or times)

    def _pass(self, model: str, size: int) -> Passes[None]:
        if model == "draft":
            yield from self._drafter.time_pass(size, self._branching)
            return
        nodes = [0] * size
        yield PassRequest(self._target, nodes, nodes, np.eye(size, dtype=bool))
        self._target.commit([0])  # each pass behind a longer text, as in decoding

    @property
    def costs(self) -> Costs:
        """What is known so far."""
        return Costs(_curve(self._seconds["target"]), _curve(self._seconds["draft"]))


def _curve(seconds: dict[int, float]) -> Curve:
    # A pass over fewer tokens costs no more than one over more.
    sizes = sorted(seconds)
    return tuple((size, min(seconds[s] for s in sizes[i:])) for i, size in enumerate(sizes))


@dataclass(frozen=True)
class CostKeys:
    """By what costs and acceptance are stored."""

    passes: str
    """Machine, execution, models and number formats: what pass costs depend on."""
    pair: str
    """Policy, options, models and some of their weights: what acceptance depends on."""
    context: int
    """Tokens of the context."""


class Calibration:
    """The costs of one text's planner: set before the first tree, refined, and stored.

    Args:
        costs: fixed costs, or a store of them.
        keys: makes the store's keys; not called for fixed costs.
        planner: takes the costs.
        target: has read the prompt.
        drafter: has read it too.
        timed: whether the phases of steps are timed by themselves, so that they tell costs.
    """

    def __init__(
        self,
        costs: Costs | CostStore,
        keys: Callable[[], CostKeys],
        planner: TreePlanner,
        target: Runner,
        drafter: TreeDrafter,
        *,
        timed: bool,
    ) -> None:
        self._costs = costs
        self._planner = planner
        self._keys = keys() if isinstance(costs, CostStore) else CostKeys("", "", 0)
        self._timer = PassTimer(target, drafter, planner.branching)
        self._timing = False
        self._allowance = 0.0
        self._timed = timed

    def start(self, tokens: int) -> Passes[None]:
        """Set the planner's costs for a text of ``tokens`` more tokens."""
        store, keys = self._costs, self._keys
        if isinstance(store, Costs):
            self._planner.calibrate(store)
            return
        known = store.costs(keys.passes, keys.context)
        if known is None:
            yield from self._timer.start(tokens)
            known = store.add(keys.passes, keys.context, measured := self._timer.costs)
            self._timing = known is measured and store.refines
        self._planner.calibrate(known)
        self._planner.recall(store.learned(keys.pair))

    def after(self, step: Step) -> Passes[None]:
        """Time one more size between two steps, if any is left and the time allows it."""
        if not self._timing or self._timer.done or step.is_prefill:
            return
        self._allowance += SHARE * step.seconds.decode
        spent = yield from self._timer.resume(self._allowance)
        if spent:
            assert isinstance(self._costs, CostStore)
            self._allowance -= spent
            self._costs.replace(self._keys.passes, self._keys.context, self._timer.costs)
            self._planner.refine_costs(self._timer.costs)

    def finish(self, steps: Sequence[Step]) -> None:
        """Store what the text showed of costs and acceptance."""
        if isinstance(self._costs, CostStore):
            self._costs.keep(self._keys.pair, self._planner.learned())
            if self._timed:
                self._costs.correct(self._keys.passes, self._keys.context, steps)

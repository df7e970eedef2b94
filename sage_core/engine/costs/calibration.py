"""Calibration: pass costs on this machine, measured after the prompt and corrected by the text.

A planner that weighs costs gets them from the cost store or from timed passes, which are removed
from the caches again. Timing takes at most 5% of the expected decoding time, or 0.5 s, before the
first tree; the remaining sizes are timed between later steps, at 5% of their time.
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
"""Share of the decoding time for timing passes."""
MIN_SECONDS = 0.5
"""Timing may always take this long before the first tree."""
REPEATS = 4
"""Passes of each size; the first may allocate memory and is not counted if there are others."""
_NEEDED = 3
SIZES: tuple[tuple[str, int], ...] = (
    *(("target", 1), ("draft", 1), ("target", 16)),  # the minimum for planning
    *(("draft", 4), ("target", 64), ("target", 4), ("target", 8), ("target", 32)),
    *(("draft", 2), ("draft", 8), ("target", 2), ("draft", 12)),
)
"""Tokens of the timed passes of each model, the most informative first."""


class PassTimer:
    """Times passes of a pair over several sizes, within limits of time.

    Args:
        target: after its prefill.
        drafter: after its prefill.
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
        """Time the minimum, and further sizes as the expected number of ``tokens`` allows."""
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
        """Time one more size if it fits in ``seconds``; returns the seconds spent, or 0.0."""
        model, size = self._left[0]
        known = self._seconds[model]
        if known[max(known)] * max(1.0, size / max(known)) > seconds:
            return 0.0
        begun = perf_counter()
        yield from self._time(begun + seconds)
        return perf_counter() - begun

    def _time(self, until: float) -> Passes[None]:
        """Time the next size, repeatedly until the time ``until``."""
        model, size = self._left.pop(0)
        times: list[float] = []
        # Each pass is after a longer text, as in decoding, but at the position of its last token:
        # a model may have no positions beyond its context.
        while not times or (len(times) < REPEATS and perf_counter() < until):
            begun = perf_counter()
            yield from self._pass(model, size, -1 - len(times))
            if self._target.device.type == "cuda":
                torch.cuda.synchronize(self._target.device)
            times.append(perf_counter() - begun)
        if model == "target":
            self._target.truncate(len(times))
        else:
            self._drafter.discard_timed(len(times))
        # Other load only adds time: the minimum is nearest to the cost.
        self._seconds[model][size] = min(times[1:] or times)

    def _pass(self, model: str, size: int, depth: int) -> Passes[None]:
        if model == "draft":
            yield from self._drafter.time_pass(size, self._branching, depth)
            return
        tokens, depths = [0] * size, [depth] * size
        yield PassRequest(self._target, tokens, depths, np.eye(size, dtype=bool))
        self._target.commit([0])

    @property
    def costs(self) -> Costs:
        """The costs timed so far."""
        return Costs(_curve(self._seconds["target"]), _curve(self._seconds["draft"]))


def _curve(seconds: dict[int, float]) -> Curve:
    # Monotone: a pass over fewer tokens costs no more than one over more.
    sizes = sorted(seconds)
    return tuple((size, min(seconds[s] for s in sizes[i:])) for i, size in enumerate(sizes))


@dataclass(frozen=True)
class CostKeys:
    """The keys of stored costs and acceptance."""

    passes: str
    """What pass costs depend on: machine, execution, models and number formats."""
    pair: str
    """What acceptance depends on: policy, options, models and some of their weights."""
    context: int
    """Tokens of the context."""


class Calibration:
    """The costs of one text's planner: set before the first tree, refined, and stored.

    Args:
        costs: fixed costs, or a store of them.
        keys: makes the store's keys; not called for fixed costs.
        planner: takes the costs.
        target, drafter: after their prefills.
        timed: whether the phases of steps are timed separately, so that costs can be corrected.
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
        """Set the planner's costs for a text of up to ``tokens`` tokens."""
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
        """Time one more size between two steps, if any is left and time allows."""
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
        """Store the costs and acceptance measured in the text."""
        if isinstance(self._costs, CostStore):
            self._costs.keep(self._keys.pair, self._planner.learned())
            if self._timed:
                self._costs.correct(self._keys.passes, self._keys.context, steps)

"""Settings of baselines that are chosen on other items: the best fixed tree, assisted generation.

A baseline should have its best setting, but one chosen on the measured items would be biased.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from sage_core.bench.measure import Input, Method, Stopwatch
from sage_core.bench.methods import Assisted
from sage_core.trees.policies.optimal_static import DEEPEST
from sage_core.trees.policies.static import RankPath, StaticPlanner
from sage_core.trees.policy import Policy, TreePlanner

__all__ = ["DEPTHS", "GRID", "FixedTree", "fastest"]

DEPTHS = (1, 2, 3, 4, 6, 8, DEEPEST)
"""Depth limits of the fixed trees that are tried; each level costs a draft pass."""
_WARM_UP_TOKENS = 32

GRID: tuple[Assisted, ...] = (
    *(
        Assisted(tokens, threshold, "constant")
        for tokens, threshold in product((3, 5, 8, 12, 20), (0.0, 0.4))
    ),
    *(Assisted(5, threshold, "heuristic_transient") for threshold in (0.0, 0.4)),
)
"""The settings of assisted generation that are tried, its defaults (20 and 0.4) among them."""


@dataclass(frozen=True)
class FixedTree(Policy):
    """The same tree in every step, given as rank paths."""

    paths: tuple[RankPath, ...]

    name: ClassVar[str] = "fixed-tree"

    def planner(self) -> TreePlanner:
        return StaticPlanner(self.paths)

    @property
    def max_nodes(self) -> int:
        return len(self.paths)


def fastest(
    methods: Sequence[Method], items: Sequence[Input], stopwatch: Callable[[], Stopwatch]
) -> tuple[Method, dict[str, float]]:
    """The method with the most tokens per second over all items, and the rate of each.

    Methods take turns on every item, after a warm-up on the first.
    """
    tokens: Counter[str] = Counter()
    seconds: dict[str, float] = defaultdict(float)
    for method in methods:
        method.decode(items[0].limited(_WARM_UP_TOKENS), stopwatch())
    for index, item in enumerate(items):
        turn = index % len(methods)
        for method in (*methods[turn:], *methods[:turn]):
            timed = stopwatch()
            decoded = method.decode(item, timed)
            tokens[method.name] += len(decoded.tokens) - timed.first_tokens
            seconds[method.name] += timed.decode
    rates = {m.name: tokens[m.name] / seconds[m.name] for m in methods if seconds[m.name] > 0}
    return max(methods, key=lambda method: rates.get(method.name, 0.0)), rates

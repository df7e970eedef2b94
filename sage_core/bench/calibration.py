"""What is chosen on items that are not measured: the best fixed tree, the best assisted setting.

Both are rivals. A rival deserves its best setting, and a setting chosen on the measured items
would be flattered by them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from sage_core.bench.measure import Input, Method, Stopwatch
from sage_core.bench.methods import Assisted, spec
from sage_core.trees.policies.optimal_static import DEEPEST
from sage_core.trees.policies.static import RankPath, StaticPlanner
from sage_core.trees.policy import Policy, TreePlanner

__all__ = ["DEPTHS", "GRID", "FixedTree", "fastest", "grid"]

DEPTHS = (1, 2, 3, 4, 6, 8, DEEPEST)
"""Depth limits of the fixed trees that are tried; a deep tree costs draft passes."""
_WARM = 32  # tokens

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
    """The same tree every step, given as rank paths."""

    paths: tuple[RankPath, ...]

    name: ClassVar[str] = "fixed-tree"

    def planner(self) -> TreePlanner:
        return StaticPlanner(self.paths)

    @property
    def max_nodes(self) -> int:
        return len(self.paths)


def fastest(
    methods: Sequence[Method], items: Sequence[Input], watch: Callable[[], Stopwatch]
) -> tuple[Method, dict[str, float]]:
    """The method with the most tokens a second over all items, and what each reached.

    Methods take turns on every item, once untimed on the first.
    """
    tokens: Counter[str] = Counter()
    seconds: dict[str, float] = defaultdict(float)
    for method in methods:
        method.decode(items[0].limited(_WARM), watch())
    for index, item in enumerate(items):
        turn = index % len(methods)
        for method in (*methods[turn:], *methods[:turn]):
            clock = watch()
            decoded = method.decode(item, clock)
            tokens[method.name] += len(decoded.tokens) - clock.first_tokens
            seconds[method.name] += clock.decode
    rates = {m.name: tokens[m.name] / seconds[m.name] for m in methods if seconds[m.name] > 0}
    return max(methods, key=lambda method: rates.get(method.name, 0.0)), rates


def grid() -> Iterator[tuple[str, Assisted]]:
    """The settings that are tried, by name."""
    for setting in GRID:
        yield spec(setting), setting

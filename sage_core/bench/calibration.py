"""What is chosen on items that are not measured: the best fixed tree, the best assisted setting.

Both are rivals. A rival deserves its best setting, and a setting chosen on the measured items
would be flattered by them.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product
from typing import Any, ClassVar

from sage_core.bench.measure import Input, Method, Watch
from sage_core.bench.methods import Assisted, spec
from sage_core.policies.base import Policy, Shaper
from sage_core.policies.static import RankPath, StaticShaper
from sage_core.steps import Step

__all__ = [
    "DEPTHS",
    "GRID",
    "PROBE",
    "FixedTree",
    "acceptance",
    "best_tree",
    "fastest",
]

DEPTHS = (1, 2, 3, 4, 6, 8, 12)
"""Depth limits of the fixed trees that are tried; a deep tree costs draft passes."""
_RANKS = 8
_WARM = 32  # tokens
PROBE: tuple[RankPath, ...] = tuple(
    (0,) * (depth - 1) + (rank,) for depth in range(1, DEPTHS[-1] + 1) for rank in range(_RANKS)
)
"""The tree that acceptance is measured with: the likeliest path, at each level its 8 best."""

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

    def shaper(self) -> Shaper:
        return StaticShaper(self.paths)

    @property
    def max_nodes(self) -> int:
        return len(self.paths)


def acceptance(steps: Sequence[Step]) -> dict[int, dict[int, float]]:
    """How often a node of a depth and a rank is accepted where its parent was: [depth][rank].

    Counted over the trees of ``steps``: of all children that an accepted node (or the root) had
    at a rank, the share that was accepted. A text's last step does not tell what would have come
    behind its end.
    """
    seen: dict[int, Counter[int]] = defaultdict(Counter)
    kept: dict[int, Counter[int]] = defaultdict(Counter)
    for step in steps:
        if step.is_prefill:
            continue
        parents = (-1, *step.accepted)
        for depth, parent in enumerate(parents[:-1] if step.finished else parents, 1):
            children = step.tree.children(parent)
            seen[depth].update(step.tree.ranks[node] for node in children)
            kept[depth].update(step.tree.ranks[node] for node in children if node in step.accepted)
    return {
        depth: {rank: kept[depth][rank] / n for rank, n in sorted(ranks.items())}
        for depth, ranks in sorted(seen.items())
        if ranks
    }


def best_tree(
    accepted: Mapping[int, Mapping[int, float]], nodes: int, depth: int
) -> tuple[RankPath, ...]:
    """The ``nodes`` paths of greatest expected acceptance, none deeper than ``depth``.

    A path is expected to be accepted with the product of its nodes' rates, so that taking the
    best node that can be added, again and again, gives the best tree. Where nothing more is
    expected to be accepted, paths are added in order: the tree has its size all the same.
    """
    order = count()
    # (-expected, order, path): the heap gives the best; ties keep the order in which they came.
    heap: list[tuple[float, int, RankPath]] = []

    def offer(path: RankPath, above: float) -> None:
        rates = accepted.get(len(path) + 1, {})
        if len(path) >= depth:
            return
        for rank in range(_RANKS):
            heapq.heappush(heap, (-above * rates.get(rank, 0.0), next(order), (*path, rank)))

    offer((), 1.0)
    chosen: list[RankPath] = []
    while heap and len(chosen) < nodes:
        expected, _, path = heapq.heappop(heap)
        chosen.append(path)
        offer(path, -expected)
    return tuple(sorted(chosen, key=lambda path: (len(path), path)))


def fastest(
    methods: Sequence[Method], items: Sequence[Input], watch: Callable[[], Watch]
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


def as_words(paths: Sequence[RankPath]) -> str:
    """Rank paths as a tree file has them."""
    return " ".join("".join(map(str, path)) for path in paths)


def plain(accepted: Mapping[int, Mapping[int, float]]) -> dict[str, Any]:
    """The table as JSON has it."""
    return {
        str(depth): {str(rank): round(rate, 4) for rank, rate in ranks.items()}
        for depth, ranks in accepted.items()
    }

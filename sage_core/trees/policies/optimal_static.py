"""The best fixed tree of a given size, from measured acceptance rates."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from sage_core.errors import OptionError
from sage_core.files.reading import as_shape, read_json
from sage_core.trees.policies.static import MAX_RANK, RankPath, StaticPlanner
from sage_core.trees.policy import Policy, TreePlanner
from sage_core.trees.steps import Step

Rates = Mapping[int, Mapping[int, float]]
"""[depth][rank]: share of such nodes that are accepted where their parent was."""
DEEPEST = 12
_RANKS = 8
PROBE: tuple[RankPath, ...] = tuple(
    (0,) * (depth - 1) + (rank,) for depth in range(1, DEEPEST + 1) for rank in range(_RANKS)
)
"""The tree that rates are measured with: the likeliest path, with the 8 likeliest at each level."""


def acceptance_rates(steps: Sequence[Step]) -> dict[int, dict[int, float]]:
    """[depth][rank]: the share of the nodes of ``steps`` accepted where their parent was.

    Counted are the children of accepted nodes and of the root. In a text's last step, children of
    its last accepted node are left out: nothing follows the end of the text.
    """
    seen: dict[int, Counter[int]] = defaultdict(Counter)
    accepted: dict[int, Counter[int]] = defaultdict(Counter)
    for step in steps:
        if step.is_prefill:
            continue
        parents = (-1, *step.accepted)
        for depth, parent in enumerate(parents[:-1] if step.finished else parents, 1):
            children, ranks = step.tree.children(parent), step.tree.ranks
            seen[depth].update(ranks[node] for node in children)
            accepted[depth].update(ranks[node] for node in children if node in step.accepted)
    return {
        depth: {rank: accepted[depth][rank] / n for rank, n in sorted(ranks.items())}
        for depth, ranks in sorted(seen.items())
        if ranks
    }


def best_tree(rates: Rates, nodes: int, depth: int) -> tuple[RankPath, ...]:
    """The ``nodes`` rank paths of greatest expected acceptance, none deeper than ``depth``.

    The expected acceptance of a path is the product of its nodes' rates, independent of the rest of
    the tree and never above its parent's. So the greatest values form a tree, which a greedy search
    finds; Sequoia (arXiv 2402.12374) maximises the same sum by dynamic programming. Where all
    expected values are 0, paths are added in order, so that the tree has its size if ``depth``
    allows.
    """
    order = count()
    ranks = sorted({*range(_RANKS), *(rank for level in rates.values() for rank in level)})
    # (-expected, order, path): ties keep the order of insertion.
    heap: list[tuple[float, int, RankPath]] = []

    def push(path: RankPath, expected: float) -> None:
        level = rates.get(len(path) + 1, {})
        if len(path) >= depth:
            return
        for rank in ranks:
            heapq.heappush(heap, (-expected * level.get(rank, 0.0), next(order), (*path, rank)))

    push((), 1.0)
    chosen: list[RankPath] = []
    while heap and len(chosen) < nodes:
        expected, _, path = heapq.heappop(heap)
        chosen.append(path)
        push(path, -expected)
    return tuple(sorted(chosen, key=lambda path: (len(path), path)))


def rates_to_json(rates: Rates) -> dict[str, Any]:
    """The rates with string keys, rounded to four digits."""
    return {
        str(depth): {str(rank): round(rate, 4) for rank, rate in ranks.items()}
        for depth, ranks in rates.items()
    }


def read_rates(file: Path) -> dict[int, dict[int, float]]:
    """The rates in a JSON file: under ``acceptance``, or of a method in a ``calibration.json``.

    Raises:
        OptionError: it cannot be read, or holds no rates from 0 to 1 by depth and rank.
    """
    data: dict[str, Any] = read_json(file, dict[str, Any], error=OptionError)
    tables = [data, *(data[name] for name in sorted(data) if isinstance(data[name], dict))]
    table = next((one["acceptance"] for one in tables if "acceptance" in one), None)
    wanted = 'write {"acceptance": {"1": {"0": 0.8, "1": 0.1}}}'
    if not table:
        raise OptionError(f"{file}: no acceptance by depth and rank: {wanted}")
    rates: dict[int, dict[int, float]]
    rates = as_shape(table, f"{file}: acceptance", dict[int, dict[int, float]], error=OptionError)
    ranks = [rank for level in rates.values() for rank in level]
    every = [rate for level in rates.values() for rate in level.values()]
    for holds, rule in (
        (min(rates) >= 1, "depths begin at 1"),
        (all(0 <= rank <= MAX_RANK for rank in ranks), f"ranks are from 0 to {MAX_RANK}"),
        (all(0 <= rate <= 1 for rate in every), "rates are from 0 to 1"),
    ):
        if not holds:
            raise OptionError(f"{file}: acceptance: {rule}: {wanted}")
    return rates


@dataclass(frozen=True)
class OptimalStatic(Policy):
    """The fixed tree of ``nodes`` nodes and at most ``depth`` levels with the greatest expected
    accepted length (after Sequoia, Chen et al., arXiv 2402.12374).

    ``table`` names a JSON file of acceptance rates by depth and rank: the ``calibration.json`` that
    ``sage bench --compare best-static --output DIR`` writes for any pair, or the output of
    ``python -m benchmarks.acceptance``. The default is the table of the bundled pair.
    """

    nodes: int = 25
    depth: int = 6
    table: str = ""

    name: ClassVar[str] = "optimal-static"

    def __post_init__(self) -> None:
        self._at_least(1, "nodes", "depth")
        if len(self.paths) < self.nodes:
            raise OptionError(
                f"optimal-static: a tree of depth {self.depth} has at most {len(self.paths)} "
                f"nodes, not {self.nodes}: allow more levels"
            )

    @cached_property
    def paths(self) -> tuple[RankPath, ...]:
        """The tree's nodes as rank paths from the root, in level order."""
        bundled = resources.files("sage_core") / "assets" / "acceptance.json"
        rates = read_rates(Path(self.table or str(bundled)))
        return best_tree(rates, self.nodes, self.depth)

    def planner(self) -> TreePlanner:
        return StaticPlanner(self.paths)

    @property
    def max_nodes(self) -> int:
        return len(self.paths)

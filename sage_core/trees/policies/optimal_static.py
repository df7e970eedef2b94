"""The best fixed tree of a size, from measured acceptance."""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from sage_core.errors import OptionError
from sage_core.trees.policies.static import RankPath, StaticPlanner
from sage_core.trees.policy import Policy, TreePlanner
from sage_core.trees.steps import Step


@dataclass(frozen=True)
class OptimalStatic(Policy):
    """The fixed tree of ``nodes`` nodes and at most ``depth`` levels that expects most accepted
    tokens (after Sequoia, Chen et al., arXiv 2402.12374).

    ``table`` names a JSON file with the share of nodes accepted by depth and rank: the
    ``calibration.json`` that ``sage bench --compare best-static --output DIR`` writes for any pair,
    or the output of ``python -m benchmarks.acceptance``. Without it the table of the bundled pair
    is used.
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
        """The tree's nodes as paths of ranks from the root, in level order."""
        bundled = resources.files("sage_core") / "assets" / "acceptance.json"
        rates = read(Path(self.table or str(bundled)))
        return best_tree(rates, self.nodes, self.depth)

    def planner(self) -> TreePlanner:
        return StaticPlanner(self.paths)

    @property
    def max_nodes(self) -> int:
        return len(self.paths)


Rates = Mapping[int, Mapping[int, float]]
"""[depth][rank]: how often such a node is accepted where its parent was."""


DEEPEST = 12


_RANKS = 8


PROBE: tuple[RankPath, ...] = tuple(
    (0,) * (depth - 1) + (rank,) for depth in range(1, DEEPEST + 1) for rank in range(_RANKS)
)
"""The tree that acceptance is measured with: the likeliest path, at each level its 8 best."""


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


def best_tree(accepted: Rates, nodes: int, depth: int) -> tuple[RankPath, ...]:
    """The ``nodes`` paths of greatest expected acceptance, none deeper than ``depth``.

    A path is expected to be accepted with the product of its nodes' rates: a value of its own,
    whatever else is in the tree, and never above its parent's. The greatest values therefore form
    a tree, and taking the best node that can be added, again and again, finds it. Sequoia (Chen et
    al., arXiv 2402.12374) maximises the same sum by dynamic programming over sizes. Where nothing
    more is expected to be accepted, paths are added in order: the tree has its size all the same,
    as far as its depth allows.
    """
    order = count()
    ranks = range(max([_RANKS, *(rank + 1 for rates in accepted.values() for rank in rates)]))
    # (-expected, order, path): the heap gives the best; ties keep the order in which they came.
    heap: list[tuple[float, int, RankPath]] = []

    def push(path: RankPath, above: float) -> None:
        rates = accepted.get(len(path) + 1, {})
        if len(path) >= depth:
            return
        for rank in ranks:
            heapq.heappush(heap, (-above * rates.get(rank, 0.0), next(order), (*path, rank)))

    push((), 1.0)
    chosen: list[RankPath] = []
    while heap and len(chosen) < nodes:
        expected, _, path = heapq.heappop(heap)
        chosen.append(path)
        push(path, -expected)
    return tuple(sorted(chosen, key=lambda path: (len(path), path)))


def as_words(paths: Sequence[RankPath]) -> str:
    """Rank paths as a tree file has them."""
    return " ".join("".join(map(str, path)) for path in paths)


def plain(accepted: Rates) -> dict[str, Any]:
    """The rates as JSON has them."""
    return {
        str(depth): {str(rank): round(rate, 4) for rank, rate in ranks.items()}
        for depth, ranks in accepted.items()
    }


def read(file: Path) -> dict[int, dict[int, float]]:
    """The rates in a JSON file: under ``acceptance``, or of a method in a `calibration.json`.

    Raises:
        OptionError: it cannot be read, or holds no rates from 0 to 1 by depth and rank.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot read the acceptance table {file}: {error}") from error
    try:
        inside = [data, *(data[name] for name in sorted(data))]
        held = next(one["acceptance"] for one in inside if "acceptance" in one)
        rates = {
            int(depth): {int(rank): float(rate) for rank, rate in ranks.items()}
            for depth, ranks in held.items()
        }
        if not rates or min(rates) < 1:
            raise ValueError("depths begin at 1")
        for ranks in rates.values():
            if any(rank < 0 or not 0 <= rate <= 1 for rank, rate in ranks.items()):
                raise ValueError("ranks begin at 0, and rates are from 0 to 1")
    except (ValueError, TypeError, AttributeError, KeyError, StopIteration) as error:
        raise OptionError(
            f"{file} holds no acceptance by depth and rank"
            + (f" ({error})" if isinstance(error, ValueError) else "")
            + ': write {"acceptance": {"1": {"0": 0.8, "1": 0.1}}}'
        ) from error
    return rates

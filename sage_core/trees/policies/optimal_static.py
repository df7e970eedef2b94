"""The best fixed tree of a size, from measured acceptance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import ClassVar

from sage_core.errors import OptionError
from sage_core.trees.policies import fixed_trees
from sage_core.trees.policies.static import RankPath, StaticShaper
from sage_core.trees.policy import Policy, Shaper


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
        rates = fixed_trees.read(Path(self.table or str(bundled)))
        return fixed_trees.best_tree(rates, self.nodes, self.depth)

    def shaper(self) -> Shaper:
        return StaticShaper(self.paths)

    @property
    def max_nodes(self) -> int:
        return len(self.paths)

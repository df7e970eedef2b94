"""A tree policy: options as a frozen dataclass, and a shaper that forms one text's trees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sage_core.errors import OptionError
from sage_core.trees.pass_costs import Costs
from sage_core.trees.steps import Shape
from sage_core.trees.tree import ROOT, TokenTree, TreeBuilder


@dataclass(frozen=True)
class Level:
    """The draft's candidates for one level, given to `TreePlanner.grow` after each draft pass.

    ``frontier`` are the F tree nodes just passed (`ROOT` at level 1); ``probs`` float32 (F, k) are
    each one's k likeliest continuations in falling order, as probabilities over the whole
    vocabulary. A probability of 0 means that there is no such candidate (a processor forbids it):
    it must not be chosen.
    """

    depth: int
    """The level that the candidates would form: 1 below the root."""
    frontier: Sequence[int]
    probs: np.ndarray
    tree: TreeBuilder
    """The tree so far; not to be changed."""
    acceptance: np.ndarray | None = None
    """(F, FORETOLD) float32, only where the draft foretells it and the policy asks: by how much the
    log odds of acceptance of each parent's 1st, 2nd, 3rd and later candidates differ from what
    their probabilities suggest."""

    @property
    def nodes(self) -> int:
        """Nodes already in the tree."""
        return len(self.tree)

    @property
    def parent_probs(self) -> np.ndarray:
        """(F,) each frontier node's own probability given its path; 1 for the root."""
        return np.array([1.0 if n == ROOT else self.tree.probs[n] for n in self.frontier])

    @property
    def cumulative(self) -> np.ndarray:
        """(F,) products of draft probabilities up to each frontier node; 1 for the root."""
        return np.array([1.0 if n == ROOT else self.tree.cumulative[n] for n in self.frontier])


@dataclass(frozen=True)
class Growth:
    """Candidates chosen from a `Level`: node j is rank ``ranks[j]`` of parent row ``rows[j]``.

    ``expand[j]`` says whether the node gets children of its own; where none does, the tree is
    complete.
    """

    rows: np.ndarray
    ranks: np.ndarray
    expand: np.ndarray

    @classmethod
    def none(cls) -> Growth:
        empty = np.zeros(0, dtype=np.int64)
        return cls(empty, empty, empty.astype(bool))


class TreePlanner(ABC):
    """Forms the trees of one text: plan, grow level by level, prune, learn from the outcome."""

    branching: int = 1
    """How many candidates a node the policy wants to see (k)."""
    counts_costs: bool = False
    """Whether `calibrate` wants what passes cost on this machine."""
    asks_acceptance: bool = False
    """Whether `grow` wants `Level.acceptance`."""

    @abstractmethod
    def plan(self) -> Shape:
        """Limits of the next tree; depth 0 drafts nothing in this step."""

    @abstractmethod
    def grow(self, level: Level) -> Growth:
        """Choose from one level's candidates. Called once per draft pass, levels in order."""

    def prune(self, tree: TokenTree) -> TokenTree:
        """What of the drafted tree is verified; all of it unless a policy re-ranks."""
        return tree

    def calibrate(self, costs: Costs) -> None:  # noqa: B027 - optional
        """Take what passes cost here; called once, before the first tree."""

    def refine_costs(self, costs: Costs) -> None:  # noqa: B027 - optional
        """Take costs that were measured better, between two trees."""

    def recall(self, learned: Mapping[str, float]) -> None:  # noqa: B027 - optional
        """Go on from what a shaper like this one `learned` of the same two models.

        Called once, after `calibrate`. Numbers may be missing, or beyond what one would learn.
        """

    def learned(self) -> dict[str, float]:
        """What of this text holds for the next one too; empty where nothing does."""
        return {}

    def observe(  # noqa: B027 - optional
        self, tree: TokenTree, nodes: Sequence[int], tokens: Sequence[int]
    ) -> None:
        """Learn from a verification: the accepted path of the verified tree, and what was
        committed, which is the path's tokens and mostly the target's own next one."""


class PlannerWrapper(TreePlanner):
    """Another shaper with something changed about it; a subclass says what."""

    def __init__(self, planner: TreePlanner) -> None:
        self._planner = planner
        self.branching = planner.branching
        self.counts_costs = planner.counts_costs
        self.asks_acceptance = planner.asks_acceptance

    def plan(self) -> Shape:
        return self._planner.plan()

    def grow(self, level: Level) -> Growth:
        return self._planner.grow(level)

    def prune(self, tree: TokenTree) -> TokenTree:
        return self._planner.prune(tree)

    def calibrate(self, costs: Costs) -> None:
        self._planner.calibrate(costs)

    def refine_costs(self, costs: Costs) -> None:
        self._planner.refine_costs(costs)

    def recall(self, learned: Mapping[str, float]) -> None:
        self._planner.recall(learned)

    def learned(self) -> dict[str, float]:
        return self._planner.learned()

    def observe(self, tree: TokenTree, nodes: Sequence[int], tokens: Sequence[int]) -> None:
        self._planner.observe(tree, nodes, tokens)


class Policy(ABC):
    """Options of a way to shape trees. Subclasses are frozen dataclasses whose fields are options.

    A subclass in a module of this package is found by itself, under its ``name``.
    """

    name: ClassVar[str]
    drafts: ClassVar[bool] = True
    """False for policies that never use a draft."""

    def _at_least(self, least: int, *options: str) -> None:
        """Refuse, by `OptionError`, an option of this name below ``least``."""
        for option in options:
            value = getattr(self, option)
            if value < least:
                raise OptionError(f"{self.name}: {option} must be at least {least}, not {value}")

    @abstractmethod
    def planner(self) -> TreePlanner:
        """A fresh shaper. What it is to know of earlier texts it is told by `TreePlanner.recall`."""

    @property
    @abstractmethod
    def max_nodes(self) -> int:
        """Upper bound on the nodes of any tree this policy forms, for reserving memory."""

"""The interface of tree policies: options (`Policy`), and one text's planner (`TreePlanner`)."""

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

BIASES = 4
"""Columns of `Level.acceptance`: a node's first, second, third and later candidates."""


@dataclass(frozen=True)
class Level:
    """The draft's candidates for one level, given to `TreePlanner.grow` after each draft pass.

    ``frontier``: the F expanded nodes (`ROOT` at level 1). ``probs``: float32 (F, k), the k largest
    probabilities after each node in descending order, over the whole vocabulary. A probability of
    0 means that there is no such candidate (a logits processor forbids it): it must not be chosen.
    """

    depth: int
    """The level that the candidates would form: 1 below the root."""
    frontier: Sequence[int]
    probs: np.ndarray
    tree: TreeBuilder
    """The tree so far; read-only."""
    acceptance: np.ndarray | None = None
    """Acceptance bias, float32 (F, `BIASES`): added to the predicted log odds of acceptance of each
    node's candidates. None unless the draft predicts it and the policy asks for it."""

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
    """Candidates chosen from a `Level`: node j is candidate ``ranks[j]`` of
    ``frontier[parents[j]]``.

    ``parents`` and ``ranks`` are int64, ``expand`` is bool, all of shape (new nodes,).
    ``expand[j]``: the node gets children of its own. If none does, the tree is complete.
    """

    parents: np.ndarray
    ranks: np.ndarray
    expand: np.ndarray

    @classmethod
    def none(cls) -> Growth:
        empty = np.zeros(0, dtype=np.int64)
        return cls(empty, empty, empty.astype(bool))


def likeliest(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` greatest scores; ties go to the first, hence to parents."""
    return np.argsort(-scores, kind="stable")[:count]


class TreePlanner(ABC):
    """Shapes the trees of one text. Per step: `plan`, `grow` per level, `prune`, `observe`."""

    branching: int = 1
    """Candidates per node in `Level.probs` (k)."""
    counts_costs: bool = False
    """Whether `calibrate` uses measured pass costs."""
    asks_acceptance: bool = False
    """Whether `grow` uses `Level.acceptance`."""

    @abstractmethod
    def plan(self) -> Shape:
        """The limits of the next tree; depth 0 drafts nothing in this step."""

    @abstractmethod
    def grow(self, level: Level) -> Growth:
        """Choose from one level's candidates. Called once per draft pass, levels in order."""

    def prune(self, tree: TokenTree) -> TokenTree:
        """The part of the drafted tree that is verified: all of it unless a policy re-ranks."""
        return tree

    def calibrate(self, costs: Costs) -> None:  # noqa: B027 - optional
        """Set the pass costs of this device. Called once, before the first tree."""

    def refine_costs(self, costs: Costs) -> None:  # noqa: B027 - optional
        """Update the pass costs between two steps, after better measurements."""

    def recall(self, learned: Mapping[str, float]) -> None:  # noqa: B027 - optional
        """Start from the `learned` state of an earlier text with the same target and draft.

        Called once, after `calibrate`. Entries may be missing or out of range.
        """

    def learned(self) -> dict[str, float]:
        """State worth keeping for the next text; empty if there is none."""
        return {}

    def observe(  # noqa: B027 - optional
        self, tree: TokenTree, nodes: Sequence[int], tokens: Sequence[int]
    ) -> None:
        """Update from a verification: the accepted path of the verified tree, and the committed
        tokens (those of the path and, unless the text ended on it, the target's next one)."""


class PlannerWrapper(TreePlanner):
    """Delegates to another planner; subclasses override what they change."""

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
    """The options of a tree policy. Subclasses are frozen dataclasses whose fields are the options.

    A subclass in a module of `sage_core.trees.policies` is registered under its ``name``.
    """

    name: ClassVar[str]
    drafts: ClassVar[bool] = True
    """False for policies that never use a draft."""

    def _at_least(self, least: int, *options: str) -> None:
        """Raise `OptionError` if one of these ``options`` is below ``least``."""
        values = ((option, getattr(self, option)) for option in options)
        self._require(
            *((x >= least, f"{name} must be at least {least}, not {x}") for name, x in values)
        )

    def _require(self, *checks: tuple[bool, str]) -> None:
        """Raise `OptionError` with the message of the first of ``checks`` that does not hold."""
        for holds, message in checks:
            if not holds:
                raise OptionError(f"{self.name}: {message}")

    @abstractmethod
    def planner(self) -> TreePlanner:
        """A new planner for one text. Earlier texts reach it through `TreePlanner.recall` only."""

    @property
    @abstractmethod
    def max_nodes(self) -> int:
        """Upper bound on the nodes of any tree of this policy, for allocating memory."""

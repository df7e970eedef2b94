"""What one decode step did: the record that streaming, JSON, the live view and benchmarks read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sage_core.trees.tree import TokenTree


@dataclass(frozen=True)
class Shape:
    """The limits that a policy set for one tree, and why.

    ``depth`` is the greatest number of levels, ``width`` the number of children allowed below the
    root (fractional for policies that round later, 0 for policies that decide level by level),
    ``alpha`` the confidence in [0, 1] that they were read from (SAGE, arXiv 2602.00523, Eq. 9),
    None for policies that do not use it.
    """

    depth: int = 0
    width: float = 0.0
    alpha: float | None = None
    note: str = ""


@dataclass(frozen=True)
class PhaseSeconds:
    """Wall-clock seconds of one step by phase.

    ``prefill_target`` and ``prefill_draft`` are non-zero in the first record only; ``draft`` is
    the draft's forward passes and top-k, ``plan`` the policy's own work, ``verify`` the target's
    pass, ``accept`` the acceptance rule with its logits processors, ``commit`` the cache moves.
    """

    prefill_target: float = 0.0
    prefill_draft: float = 0.0
    draft: float = 0.0
    plan: float = 0.0
    verify: float = 0.0
    accept: float = 0.0
    commit: float = 0.0

    @property
    def total(self) -> float:
        return self.prefill + self.decode

    @property
    def prefill(self) -> float:
        return self.prefill_target + self.prefill_draft

    @property
    def decode(self) -> float:
        return self.draft + self.plan + self.verify + self.accept + self.commit


@dataclass(frozen=True)
class Step:
    """One step: a draft phase and one target verification.

    The record with ``index == 0`` is the prefill: it has an empty tree and commits the first
    token. ``accepted`` are the nodes of the accepted path whose tokens were committed, so
    ``tokens`` is their tokens plus, unless the text ended on the path, the target's own next one.
    """

    index: int
    root: int
    """Token id of the root, the last token committed before this step; -1 in the prefill record."""
    tree: TokenTree
    accepted: tuple[int, ...]
    tokens: tuple[int, ...]
    shape: Shape = field(default_factory=Shape)
    draft_passes: int = 0
    seconds: PhaseSeconds = field(default_factory=PhaseSeconds)
    finished: bool = False
    """True when the text ended in this step."""

    @property
    def is_prefill(self) -> bool:
        return self.index == 0


@dataclass(frozen=True)
class Acceptance:
    """The outcome of one verification.

    ``nodes`` is the accepted path; ``tokens`` are its tokens and the target's own next one, which
    is missing only when the text ended on the path.
    """

    nodes: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Proposal:
    """A drafted tree with what it took: draft passes, and the policy's own seconds.

    ``draws`` holds, for every node (or `ROOT`) whose children were drawn rather than chosen, the
    distribution (vocabulary,) that they were drawn from. Ranks are then the order of drawing.
    ``planned`` is the part of the tree that the policy's planner formed, its first nodes; None if
    the planner had no part in it, such as a tree that a grammar forces. Only that part, and what
    was accepted of it, reaches `TreePlanner.observe`.
    """

    tree: TokenTree = field(default_factory=TokenTree)
    shape: Shape = field(default_factory=Shape)
    passes: int = 0
    plan_seconds: float = 0.0
    draws: Mapping[int, Any] = field(default_factory=dict)
    planned: TokenTree | None = None

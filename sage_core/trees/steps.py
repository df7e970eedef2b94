"""Plain data of one decoding step: what streaming, JSON, the live view and benchmarks read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sage_core.trees.tree import TokenTree


@dataclass(frozen=True)
class Shape:
    """The limits that a policy sets for one tree.

    ``depth``: maximum number of levels. ``width``: children allowed below the root (fractional for
    policies that round later, 0 for policies that decide level by level). ``alpha``: the draft's
    confidence in [0, 1] (SAGE, arXiv 2602.00523, Eq. 9), None for policies that do not use it.
    ``note``: a short explanation for display.
    """

    depth: int = 0
    width: float = 0.0
    alpha: float | None = None
    note: str = ""


@dataclass(frozen=True)
class PhaseSeconds:
    """Wall-clock seconds of one step by phase.

    ``prefill_target`` and ``prefill_draft`` are non-zero in the first record only; ``draft``: the
    draft's forward passes and top-k; ``plan``: the tree planner; ``verify``: the target's pass;
    ``accept``: the acceptance rule with its logits processors; ``commit``: the cache updates.
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
    token. ``accepted`` are the nodes of the accepted path; ``tokens`` are the committed tokens:
    those of the path and, unless the text ended on it, the target's next one.
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

    ``nodes``: the accepted path. ``tokens``: its tokens and, unless the text ended on it, the
    target's next one.
    """

    nodes: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Proposal:
    """A drafted tree, the number of draft passes it took, and the planner's seconds.

    ``draws``: for every node (or `ROOT`) whose children were sampled, the distribution that they
    were sampled from; ranks are then the order of sampling. ``planned``: the first nodes of the
    tree, those that the planner formed; None if it formed none, as in a tree that a grammar forces.
    Only that part, and what was accepted of it, reaches `TreePlanner.observe`.
    """

    tree: TokenTree = field(default_factory=TokenTree)
    shape: Shape = field(default_factory=Shape)
    passes: int = 0
    plan_seconds: float = 0.0
    draws: Mapping[int, Any] = field(default_factory=dict)
    """Float tensors (vocabulary,); typed as Any because this package does not import torch."""
    planned: TokenTree | None = None

"""Walk a recorded text under a policy: the trees it would have drafted, and what was accepted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.replay.record import LEVELS, Position, Recording
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policy import Level, Policy, TreePlanner
from sage_core.trees.tree import ROOT, TokenTree, TreeBuilder


@dataclass(frozen=True)
class Round:
    """One step: its position, nodes verified, tokens of each draft pass, tokens committed."""

    position: int
    nodes: int
    rows: tuple[int, ...]
    committed: int
    missing: int = 0
    """Expanded nodes whose candidates were not recorded."""

    def seconds(self, costs: Costs) -> float:
        """The time of the step at these costs."""
        drafting = float(costs.propose(self.rows).sum()) if self.rows else 0.0
        return drafting + float(costs.verify([self.nodes + 1])[0]) + costs.step


def walk(recording: Recording, policy: Policy, costs: Costs) -> list[Round]:
    """All steps of one text under a policy whose planner gets the costs."""
    return walk_after({}, recording, policy, costs)[0]


def walk_after(
    learned: Mapping[str, float], recording: Recording, policy: Policy, costs: Costs
) -> tuple[list[Round], dict[str, float]]:
    """The same, starting from what was learned on earlier texts; and what is learned after it."""
    planner = policy.planner()
    planner.calibrate(costs)
    planner.recall(learned)
    rounds: list[Round] = []
    at, end = 0, len(recording.ids) - 1
    while at < end:
        one = step(recording, at, planner)
        rounds.append(one)
        at += one.committed
    return rounds, planner.learned()


def step(recording: Recording, at: int, planner: TreePlanner) -> Round:
    """Draft, verify and observe at one position, as the engine does."""
    future = recording.ids[at + 1 :].tolist()
    shape = planner.plan()
    drafted, rows, missing = _draft(
        recording.positions[at], planner, min(shape.depth, len(future) - 1, LEVELS)
    )
    tree = planner.prune(drafted) if rows else drafted
    nodes: list[int] = []
    node: int | None = tree.child(ROOT, future[0])
    while node is not None:
        nodes.append(node)
        node = tree.child(node, future[len(nodes)]) if len(nodes) < len(future) else None
    tokens = future[: len(nodes) + 1]
    planner.observe(tree, nodes, tokens)
    return Round(at, len(tree), tuple(rows), len(tokens), missing)


def _draft(
    position: Position, planner: TreePlanner, limit: int
) -> tuple[TokenTree, list[int], int]:
    builder, passes, missing = TreeBuilder(), [], 0
    frontier: list[int] = [ROOT]
    recorded = {ROOT: 0}  # tree node: its entry of the level below
    places: dict[int, tuple[int, int]] = {}  # tree node: its own entry and rank
    for depth in range(1, limit + 1):
        probs = np.zeros((len(frontier), planner.branching), np.float32)
        rows = [recorded.get(node, -1) for node in frontier]
        width = min(planner.branching, position.probs.shape[2])
        for i, row in enumerate(rows):
            if row >= 0:
                probs[i, :width] = position.probs[depth - 1, row, :width]
        missing += sum(row < 0 for row in rows)
        passes.append(len(frontier))
        bias = None
        if position.acceptance is not None and planner.asks_acceptance:
            bias = position.acceptance[depth - 1, rows]
        growth = planner.grow(Level(depth, frontier, probs, builder, bias))
        found = [
            (rows[i], int(r))
            for i, r in zip(growth.parents.tolist(), growth.ranks.tolist(), strict=True)
        ]
        added = builder.add(
            [frontier[i] for i in growth.parents],
            [int(position.tokens[depth - 1, row, rank]) for row, rank in found],
            probs[growth.parents, growth.ranks].tolist(),
            growth.ranks.tolist(),
        )
        places.update(zip(added, found, strict=True))
        frontier = [node for node, more in zip(added, growth.expand, strict=True) if more]
        if not frontier or depth == limit:
            break
        below = {tuple(p): i for i, p in enumerate(position.parents[depth].tolist())}
        recorded = {n: below[places[n]] for n in frontier if places[n] in below}
    return builder.freeze(), passes, missing


def oracle(recording: Recording, costs: Costs) -> tuple[float, int]:
    """Least seconds for a text when every step's accepted path is known, and the tokens.

    The planner chooses how many levels to draft and verifies the accepted path alone, limited to
    the recorded candidates. Dynamic programming from the end of the text.
    """
    end = len(recording.ids) - 1
    best = np.zeros(end + 1)
    for at in range(end - 1, -1, -1):
        reach = min(reachable(recording, at), end - at - 1)
        depths = np.arange(reach + 1)
        spent = costs.verify(depths + 1) + costs.step + float(costs.propose([1])[0]) * depths
        best[at] = float((spent + best[at + 1 + depths]).min())
    return float(best[0]), end


def reachable(recording: Recording, at: int) -> int:
    """Levels that hold the text's own next tokens, each a child of the one above."""
    position, row = recording.positions[at], 0
    for level in range(LEVELS):
        if at + 1 + level >= len(recording.ids):
            return level
        hits = np.flatnonzero(position.tokens[level, row] == recording.ids[at + 1 + level])
        if not len(hits):
            return level
        below = position.below(level, row, int(hits[0]))
        if below is None:
            return level + 1
        row = below
    return LEVELS

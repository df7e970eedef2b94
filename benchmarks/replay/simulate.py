"""Replay recorded drafts under every policy, at any costs.

    python -m benchmarks.replay.simulate FILE.npz --output benchmarks/results/replay
    python -m benchmarks.replay.simulate FILE.npz --costs 0.08:0.001,0.2:0.012

A regime is c_d/c_t:c_v/c_t, the cost of a draft pass and of a further verified node in target
passes. In each the rivals are tried at every size, and the best of them is chosen with hindsight on
the texts that are reported; `sage` gets the regime's costs and nothing else. Beside it: what an
oracle planner reaches that knows the text before it drafts (`walk.oracle`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environment, harness
from benchmarks.harness import number
from benchmarks.replay.record import BEAM, LEVELS, RANKS, Recording, load
from benchmarks.replay.walk import Round, oracle, walk_after
from sage_core.bench.calibration import FixedTree
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policies import parse
from sage_core.trees.policies.optimal_static import best_tree
from sage_core.trees.policy import Policy

DRAFT = (0.02, 0.05, 0.08, 0.15, 0.3)
NODE = (0.001, 0.005, 0.012, 0.02)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Totals:
    """Sums over all texts of what a method did."""

    tokens: int
    steps: int
    nodes: int
    passes: int
    missing: int
    """Expanded nodes that were not recorded."""

    def rate(self, draft: float, node: float) -> float:
        """Tokens per target pass; costs are linear, so the sums are enough."""
        return self.tokens / (self.steps + node * self.nodes + draft * self.passes)

    def figures(self) -> dict[str, float]:
        """Means per step."""
        return {
            "mean_accepted": round(self.tokens / self.steps - 1, 3),
            "nodes_per_step": round(self.nodes / self.steps, 2),
            "draft_passes_per_step": round(self.passes / self.steps, 2),
        }


def replayed(recordings: Sequence[Recording], policy: Policy, costs: Costs) -> Totals:
    """Any policy, by its own code; a text starts from what was learned on those before it."""
    rounds: list[Round] = []
    learned: dict[str, float] = {}
    for recording in recordings:
        more, learned = walk_after(learned, recording, policy, costs)
        rounds += more
    return Totals(
        sum(one.committed for one in rounds),
        len(rounds),
        sum(one.nodes for one in rounds),
        sum(len(one.rows) for one in rounds),
        sum(one.missing for one in rounds),
    )


def rivals(recordings: Sequence[Recording]) -> Iterator[tuple[str, str, Policy]]:
    """Family, name and policy of every rival: each at every size."""
    for length in range(1, LEVELS + 1):
        yield "chain", f"chain {length}", parse(f"chain:length={length}")
    for depth in range(1, LEVELS + 1):
        for size in (size for size in SIZES if size >= depth):
            spec = f"eagle2:depth={depth},nodes={size},beam={BEAM},k={RANKS}"
            yield "eagle2", f"eagle2 d={depth} N={size}", parse(spec)
    for family in ("static", "spec-llava", "sage-paper"):
        yield family, family, parse(family)
    deep = f"spec-llava:depth={LEVELS}"  # the paper names no limit; ours is 8
    yield "spec-llava", deep, parse(deep)
    rates = rank_rates(recordings)
    for depth in (2, 4, 6, 8, 12, 16, 24):
        for size in SIZES[3:]:
            tree = FixedTree(best_tree(rates, size, depth))
            yield "best static", f"best static d={depth} N={size}", tree


def rank_rates(recordings: Sequence[Recording]) -> dict[int, dict[int, float]]:
    """How often the candidate of a rank is accepted where its parent was: [depth][rank]."""
    seen = np.zeros(LEVELS)
    kept = np.zeros((LEVELS, RANKS))
    for one in recordings:
        for i, position in enumerate(one.positions):
            future, row = one.ids[i + 1 :], 0
            for level in range(min(LEVELS, len(future))):
                seen[level] += 1
                hits = np.flatnonzero(position.tokens[level, row] == future[level])
                if not len(hits):
                    break
                kept[level, hits[0]] += 1
                below = position.below(level, row, int(hits[0]))
                if below is None:
                    break
                row = below
    return {
        level + 1: {rank: float(kept[level, rank] / max(1, seen[level])) for rank in range(RANKS)}
        for level in range(LEVELS)
    }


def simulate(
    recordings: Sequence[Recording], regimes: Sequence[tuple[float, float]], policy: str
) -> list[dict[str, Any]]:
    """The figures of each regime."""
    neutral = Costs.linear(1.0, 0.001, 0.1)  # rivals shape the same trees whatever passes cost
    fixed = {
        (family, name): replayed(recordings, rival, neutral)
        for family, name, rival in rivals(recordings)
    }
    rows = []
    for draft, node in regimes:
        costs = Costs.linear(1.0, node, draft)
        ours = replayed(recordings, parse(policy), costs)
        rates = {name: totals.rate(draft, node) for (_, name), totals in fixed.items()}
        best = max(rates, key=lambda name: rates[name])
        bounds = [oracle(one, costs) for one in recordings]
        bound = sum(tokens for _, tokens in bounds) / sum(seconds for seconds, _ in bounds)
        mine = ours.rate(draft, node)
        families: dict[str, float] = {}
        for family, name in fixed:
            families[family] = max(rates[name], families.get(family, 0.0))
        rows.append(
            {
                "draft": draft,
                "node": node,
                "sage": round(mine, 3),
                "best": best,
                "best_rate": round(rates[best], 3),
                "ratio": round(mine / rates[best], 3),
                "oracle": round(bound / rates[best], 3),
                "reached": round(mine / bound, 3),
                "rivals": {family: round(rate, 3) for family, rate in families.items()},
                "missing": ours.missing,
                **ours.figures(),
            }
        )
    return rows


def report(data: dict[str, Any]) -> str:
    head = ["c_d/c_t", "c_v/c_t", "best rival", "its rate", "sage", "sage / best"]
    head += ["oracle / best", "sage / oracle", "τ", "nodes", "passes"]
    rows = [
        [
            *(row["draft"], row["node"], row["best"], number(row["best_rate"])),
            *(
                number(row["sage"]),
                f"**{row['ratio']:.2f}**",
                number(row["oracle"]),
            ),
            *(number(row["reached"]), number(row["mean_accepted"])),
            *(number(row["nodes_per_step"], 1), number(row["draft_passes_per_step"], 1)),
        ]
        for row in data["rows"]
    ]
    notes = [
        f"{data['texts']} texts, {data['tokens']} tokens; rates are tokens per target pass",
        "best rival: of all chains, the static tree, the best static trees, EAGLE-2's trees of "
        "all depths and sizes, spec-llava and sage-paper, chosen with hindsight in each regime",
        harness.TAU_ALONE,
    ]
    return harness.report("Replay of recorded drafts", data, notes, harness.table(head, rows))


def main(argv: list[str] | None = None) -> int:
    parser = harness.options(__doc__, pair=False, policy="sage", costs=())
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args(argv)
    regimes = [(draft, node) for draft in DRAFT for node in NODE]
    if arguments.costs:
        pairs = [part.split(":") for part in arguments.costs]
        regimes = [(float(draft), float(node)) for draft, node in pairs]
    recordings = load(arguments.file)
    data = {
        "environment": environment.describe("benchmarks.replay.simulate"),
        "texts": len(recordings),
        "tokens": sum(len(one.ids) for one in recordings),
        "rows": simulate(recordings, regimes, arguments.policy),
    }
    environment.write(arguments.output, data, report(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())

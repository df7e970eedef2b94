"""Replay recorded drafts under every policy, at any costs.

    python -m benchmarks.replay.simulate FILE.npz --output benchmarks/results/replay
    python -m benchmarks.replay.simulate FILE.npz --costs 0.08:0.001,0.2:0.012

A regime is c_d/c_t:c_v/c_t, the price of a draft pass and of a further verified node in target
passes. In each the rivals are tried at every size, and the best of them is chosen with hindsight on
the very texts that are reported; `sage` gets the regime's costs and nothing else. Beside it stands
what a planner could reach that knows the text before it drafts (`walk.clairvoyant`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environment
from benchmarks.replay.record import BEAM, LEVELS, RANKS, Position, Recording, load
from benchmarks.replay.walk import Round, clairvoyant, walk_after
from sage_core.bench.calibration import FixedTree
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policies import parse
from sage_core.trees.policies.optimal_static import best_tree

DRAFT = (0.02, 0.05, 0.08, 0.15, 0.3)
NODE = (0.001, 0.005, 0.012, 0.02)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Totals:
    """Sums over all texts of what a method did: steps by nodes verified, passes, tokens."""

    tokens: int
    steps: int
    nodes: int
    passes: int

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


def path_order(position: Position, future: np.ndarray) -> np.ndarray:
    """(LEVELS, LEVELS) int: of a tree of the first d levels, the place by cumulative probability of
    the text's own node at level i, in [d - 1, i - 1]; a large number where it is not there."""
    out = np.full((LEVELS, LEVELS), 1 << 20)
    cumulative: list[np.ndarray] = []
    above = np.ones(1)
    own: list[float] = []
    row: int | None = 0
    for level in range(LEVELS):
        probs = position.probs[level, : len(above)].astype(np.float64)
        here = above[:, None] * probs
        cumulative.append(here.ravel())
        if row is not None and level < len(future):
            hits = np.flatnonzero(position.tokens[level, row] == future[level])
            place = (row, int(hits[0])) if len(hits) else None
            if place:
                own.append(float(here[place]))
        else:
            place = None
        ranked = np.sort(np.concatenate(cumulative))[::-1]
        for i, value in enumerate(own):
            out[level, i] = int(np.searchsorted(-ranked, -value, side="left"))
        if level + 1 == LEVELS:
            break
        parents = position.parents[level + 1]
        valid = parents[:, 0] >= 0
        above = here[parents[valid, 0], parents[valid, 1]]
        row = position.below(level, *place) if place else None
    return out


def eagle2(recordings: Sequence[Recording]) -> dict[tuple[int, int], Totals]:
    """EAGLE-2's trees of every depth and size."""
    found: dict[tuple[int, int], Totals] = {}
    orders = [
        np.stack([path_order(p, one.ids[i + 1 :]) for i, p in enumerate(one.positions)])
        for one in recordings
    ]
    for depth in range(1, LEVELS + 1):
        for size in SIZES:
            if size < depth:
                continue
            lengths = [(order[:, depth - 1] < size).sum(axis=1) for order in orders]
            found[depth, size] = _walked(recordings, lengths, depth, size)
    return found


def chains(recordings: Sequence[Recording]) -> dict[int, Totals]:
    """A single path of every length."""
    runs = []
    for one in recordings:
        run = np.zeros(len(one.positions), int)
        for i, position in enumerate(one.positions):
            future = one.ids[i + 1 :]
            row = 0
            while run[i] < min(LEVELS, len(future)):
                level = run[i]
                if position.tokens[level, row, 0] != future[level]:
                    break
                run[i] += 1
                below = position.below(level, row, 0)
                if below is None:
                    break
                row = below
        runs.append(run)
    return {
        length: _walked(recordings, [np.minimum(run, length) for run in runs], length, length, 1)
        for length in range(1, LEVELS + 1)
    }


def _walked(
    recordings: Sequence[Recording],
    lengths: Sequence[np.ndarray],
    depth: int,
    size: int,
    ranks: int = RANKS,
) -> Totals:
    tokens = steps = nodes = passes = 0
    for one, accepted in zip(recordings, lengths, strict=True):
        at, end = 0, len(one.ids) - 1
        while at < end:
            room = end - at - 1
            drafted = min(depth, room)
            length = min(int(accepted[at]), drafted)
            steps, tokens, passes = steps + 1, tokens + length + 1, passes + drafted
            most = drafted if ranks == 1 else ranks + BEAM * ranks * (drafted - 1)
            nodes += min(size, most) if drafted else 0
            at += length + 1
    return Totals(tokens, steps, nodes, passes)


def replayed(recordings: Sequence[Recording], policy: Any, costs: Costs) -> tuple[Totals, int]:
    """Any policy, by its own code; and how many expanded nodes were not recorded.

    Each text is told what those before it have taught, as in the engine.
    """
    rounds: list[Round] = []
    learned: dict[str, float] = {}
    for recording in recordings:
        more, learned = walk_after(learned, recording, policy, costs)
        rounds += more
    totals = Totals(
        sum(one.committed for one in rounds),
        len(rounds),
        sum(one.nodes for one in rounds),
        sum(len(one.rows) for one in rounds),
    )
    return totals, sum(one.missing for one in rounds)


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
    """A row a regime."""
    fixed: dict[str, Totals] = {f"chain {n}": t for n, t in chains(recordings).items()}
    fixed |= {f"eagle2 d={d} N={n}": t for (d, n), t in eagle2(recordings).items()}
    neutral = Costs.linear(1.0, 0.001, 0.1)
    fixed["static"] = replayed(recordings, parse("static"), neutral)[0]
    fixed["spec-llava"] = replayed(recordings, parse("spec-llava"), neutral)[0]
    deep = f"spec-llava:depth={LEVELS}"  # the paper names no limit; ours is 8
    fixed[deep] = replayed(recordings, parse(deep), neutral)[0]
    fixed["sage-paper"] = replayed(recordings, parse("sage-paper"), neutral)[0]
    rates = rank_rates(recordings)
    for depth in (2, 4, 6, 8, 12, 16, 24):
        for size in SIZES[3:]:
            tree = FixedTree(best_tree(rates, size, depth))
            fixed[f"best static d={depth} N={size}"] = replayed(recordings, tree, neutral)[0]
    rows = []
    for draft, node in regimes:
        costs = Costs.linear(1.0, node, draft)
        ours, unseen = replayed(recordings, parse(policy), costs)
        rates_ = {name: totals.rate(draft, node) for name, totals in fixed.items()}
        best = max(rates_, key=lambda name: rates_[name])
        bounds = [clairvoyant(one, costs) for one in recordings]
        bound = sum(tokens for _, tokens in bounds) / sum(seconds for seconds, _ in bounds)
        mine = ours.rate(draft, node)
        families = {
            family: max(r for name, r in rates_.items() if name.startswith(family))
            for family in ("chain", "static", "best static", "eagle2", "spec-llava", "sage-paper")
        }
        rows.append(
            {
                "draft": draft,
                "node": node,
                "sage": round(mine, 3),
                "best": best,
                "best_rate": round(rates_[best], 3),
                "ratio": round(mine / rates_[best], 3),
                "clairvoyant": round(bound / rates_[best], 3),
                "reached": round(mine / bound, 3),
                "rivals": {family: round(rate, 3) for family, rate in families.items()},
                "missing": unseen,
                **ours.figures(),
            }
        )
    return rows


def report(data: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["# Replay of recorded drafts", "", *environment.as_markdown(data["environment"])]
    lines += [
        f"- {data['texts']} texts, {data['tokens']} tokens; rates are tokens per target pass",
        "- best rival: of all chains, the static tree, the best static trees, EAGLE-2's trees of "
        "all depths and sizes, spec-llava and sage-paper, chosen with hindsight in each regime",
        "",
        "| c_d/c_t | c_v/c_t | best rival | its rate | sage | sage / best | clairvoyant / best "
        "| sage / clairvoyant | τ | nodes | passes |",
        "|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in data["rows"]:
        lines.append(
            f"| {row['draft']} | {row['node']} | {row['best']} | {row['best_rate']:.2f} "
            f"| {row['sage']:.2f} | **{row['ratio']:.2f}** | {row['clairvoyant']:.2f} "
            f"| {row['reached']:.2f} | {row['mean_accepted']:.2f} | {row['nodes_per_step']:.1f} "
            f"| {row['draft_passes_per_step']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--costs", help="draft:node pairs between commas")
    parser.add_argument("--policy", default="sage")
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    arguments = parser.parse_args()
    regimes = [(draft, node) for draft in DRAFT for node in NODE]
    if arguments.costs:
        pairs = [part.split(":") for part in arguments.costs.split(",")]
        regimes = [(float(draft), float(node)) for draft, node in pairs]
    recordings = load(arguments.file)
    data = {
        "environment": environment.describe("benchmarks.replay.simulate"),
        "texts": len(recordings),
        "tokens": sum(len(one.ids) for one in recordings),
        "rows": simulate(recordings, regimes, arguments.policy),
    }
    environment.write(arguments.output, data, report(data))


if __name__ == "__main__":
    main()

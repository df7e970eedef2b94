"""Record what the draft proposes at every position of held-out texts, with what the target says.

    python -m benchmarks.replay.record --items 60 --seed 11 --output FILE.npz
    python -m benchmarks.replay.record --pair DIR --items 24 --output FILE.npz

At each position the draft's tree is grown to `LEVELS` levels, the `BEAM` likeliest nodes of each
level expanded to their `RANKS` likeliest tokens. No node is verified: the target decodes a token a
step, so its own text decides which nodes are accepted. A policy that expands other nodes than
these cannot be replayed exactly; `simulate` counts how often that happens.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from sage_core.bench.engine import PairEngine
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.models.catalog import BUNDLED_DRAFT
from sage_core.pair_loading import LoadedPair, load_pair
from sage_core.pipeline import Options
from sage_core.trees.policy import BIASES, Growth, Level, Policy, TreePlanner
from sage_core.trees.steps import Shape
from sage_core.trees.tree import TokenTree
from training.bench_items import held_out

LEVELS, BEAM, RANKS = 24, 12, 10


@dataclass(frozen=True)
class Position:
    """The draft's tree below one committed token.

    ``tokens`` and ``probs`` (levels, BEAM, RANKS): the candidates of each expanded node; rows that
    were not expanded hold -1 and 0. ``parents`` (levels, BEAM, 2): each expanded node as row and
    rank of the level above (-1, -1 at the first). ``acceptance`` float32 (levels, BEAM, BIASES):
    the draft's acceptance biases of each row's candidates; None without an acceptance predictor.
    """

    tokens: np.ndarray
    probs: np.ndarray
    parents: np.ndarray
    acceptance: np.ndarray | None = None

    def below(self, level: int, row: int, rank: int) -> int | None:
        """The row of the next level that holds a candidate's own; None if there is none."""
        if level + 1 == LEVELS:
            return None
        found = np.flatnonzero((self.parents[level + 1] == (row, rank)).all(axis=1))
        return int(found[0]) if len(found) else None


@dataclass(frozen=True)
class Recording:
    """One text: the target's own tokens, and the draft's tree before each but the first."""

    name: str
    ids: np.ndarray
    positions: tuple[Position, ...]
    """``positions[i]`` was drafted behind ``ids[: i + 1]``."""


@dataclass(frozen=True)
class Recorded(Policy):
    """Drafts the recorded tree and verifies none of it."""

    kept: list[Position] = field(default_factory=list)

    name: ClassVar[str] = "recording"

    def planner(self) -> TreePlanner:
        return _Recorder(self.kept)

    @property
    def max_nodes(self) -> int:
        return LEVELS * BEAM * RANKS


class _Recorder(TreePlanner):
    branching = RANKS
    asks_acceptance = True

    def __init__(self, kept: list[Position]) -> None:
        self._kept = kept
        self._probs: list[np.ndarray] = []
        self._parents: list[list[tuple[int, int]]] = []
        self._acceptance: list[np.ndarray] = []

    def plan(self) -> Shape:
        self._probs, self._parents, self._acceptance = [], [], []
        return Shape(LEVELS, RANKS)

    def grow(self, level: Level) -> Growth:
        count, ranks = level.probs.shape
        places = [(-1, -1)]
        if self._probs:  # not all that were to be expanded: nothing follows an end
            above = level.nodes - self._probs[-1].size
            places = [divmod(int(node) - above, ranks) for node in level.frontier]
        self._parents.append(places)
        self._probs.append(level.probs)
        if level.acceptance is not None:
            self._acceptance.append(level.acceptance)
        cumulative = (level.cumulative[:, None] * level.probs).ravel()
        best = np.sort(np.argsort(-cumulative, kind="stable")[:BEAM])
        expand = np.zeros(count * ranks, dtype=bool)
        expand[best] = True
        return Growth(np.repeat(np.arange(count), ranks), np.tile(np.arange(ranks), count), expand)

    def prune(self, tree: TokenTree) -> TokenTree:
        shape = (LEVELS, BEAM, RANKS)
        tokens, probs = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
        parents, at = np.full((LEVELS, BEAM, 2), -1, np.int16), 0
        for level, found in enumerate(self._probs):
            count, ranks = found.shape
            probs[level, :count, :ranks] = found
            block = np.array(tree.tokens[at : at + found.size]).reshape(found.shape)
            tokens[level, :count, :ranks] = block
            parents[level, :count] = self._parents[level]
            at += found.size
        bias = np.zeros((LEVELS, BEAM, BIASES), np.float32)
        for level, predicted in enumerate(self._acceptance):
            bias[level, : len(predicted)] = predicted
        known = bias if self._acceptance else None
        self._kept.append(Position(tokens, probs, parents, known))
        return TokenTree()


def record(pair: LoadedPair, count: int, seed: int, limit: int) -> Iterator[Recording]:
    """Decode ``count`` held-out items with the pair and record each."""
    options = Options(max_new_tokens=limit)
    engine = PairEngine(pair, options)
    for item in held_out(count, seed):
        given = engine.prepare(item.request(0, []))
        policy = Recorded()
        decoder = SpeculativeDecoder(pair.target, pair.draft, policy, options.pruning())
        # The last tokens of a text have few levels below them: the limit must not be near.
        settings = {**given.options, "max_new_tokens": limit + LEVELS}
        output = decoder.generate(**given.inputs, **settings)
        ids = output.sequences[0, given.prompt_tokens :].cpu().numpy().astype(np.int32)
        # Before the last token that the limit allows nothing is drafted.
        yield Recording(item.id, ids[: len(policy.kept) + 1], tuple(policy.kept))


def save(path: Path, recordings: Sequence[Recording]) -> None:
    """All of them in one file that `load` reads."""
    positions = [position for one in recordings for position in one.positions]
    np.savez_compressed(
        path,
        names=np.array([one.name for one in recordings]),
        lengths=np.array([len(one.ids) for one in recordings]),
        counts=np.array([len(one.positions) for one in recordings]),
        ids=np.concatenate([one.ids for one in recordings]),
        tokens=np.stack([position.tokens for position in positions]),
        probs=np.stack([position.probs for position in positions]),
        parents=np.stack([position.parents for position in positions]),
        acceptance=np.array([p.acceptance for p in positions if p.acceptance is not None]),
    )


def load(path: Path) -> list[Recording]:
    """The recordings of a file."""
    with np.load(path) as file:
        data = {name: file[name] for name in file.files}
    bias = list(data["acceptance"]) or [None] * len(data["tokens"])
    found, ids, at = [], 0, 0
    for name, length, count in zip(data["names"], data["lengths"], data["counts"], strict=True):
        positions = tuple(
            Position(data["tokens"][i], data["probs"][i], data["parents"][i], bias[i])
            for i in range(at, at + count)
        )
        found.append(Recording(str(name), data["ids"][ids : ids + length], positions))
        ids, at = ids + length, at + count
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pair", type=Path, help="folder of target/ and draft/ (default: bundled)")
    parser.add_argument("--draft", default=BUNDLED_DRAFT, help="of the bundled target")
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    folder = arguments.pair
    pair = load_pair(
        folder and folder / "target", folder / "draft" if folder else arguments.draft, "cpu"
    )
    found = []
    for one in record(pair, arguments.items, arguments.seed, arguments.max_new_tokens):
        found.append(one)
        print(f"\r{len(found)} of {arguments.items} items", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    save(arguments.output, found)


if __name__ == "__main__":
    main()

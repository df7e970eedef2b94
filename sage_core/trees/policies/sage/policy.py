"""The default policy: trees that are worth their time, on this machine, with this pair.

A step commits 1 + Σ a tokens in expectation, a being the chance that a node is accepted, and takes
c_t(nodes) + c_d · passes. The tree of most tokens per second is found by iteration (Dinkelbach):
with λ the rate achieved so far, a node or a pass is worth it when the tokens that it brings exceed
λ times its seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from sage_core.trees.pass_costs import Costs
from sage_core.trees.policies.sage.confident_levels import SURE, SureLevels
from sage_core.trees.policies.sage.fast_networks import (
    KEPT,
    CandidateNetwork,
    Correction,
    Node,
    NodeNetwork,
    Row,
)
from sage_core.trees.policies.sage.networks import CERTAIN, SERVED, fitted
from sage_core.trees.policy import Growth, Level, Policy, TreePlanner
from sage_core.trees.steps import Shape
from sage_core.trees.tree import ROOT, TokenTree

_HELD = 0.9  # how often levels are taken to hold the accepted token before anything is seen
_BEFORE, _WEIGHT = 1.5, 12.0  # tokens per target pass before anything is seen, of so many passes
_SOON = 3  # steps to the first look in a text, where drafting did not pay in the one before
_SIZES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 48)
_ODD = 0.1
"""What a verification of another number of rows is taken to cost besides, in passes over one row.

Libraries make their kernels for each number of rows anew, which takes as long as half a pass, and
the last few nodes of a tree are worth little more than they cost."""
_SLIGHT = 1e-3
"""Beyond the first few ranks, candidates of a smaller draft probability are not looked at."""
_ZERO = np.broadcast_to(0, 1)  # which nobody can write to
_FIRST, _LAST = (Growth(_ZERO, _ZERO, np.broadcast_to(more, 1)) for more in (True, False))
"""The first candidate of a level's only node, with children and without."""
UNKNOWN = Costs.linear(1.0, 0.01, 0.1)
"""What passes are taken to cost where nobody has measured: only the ratios matter."""


@dataclass(frozen=True)
class Sage(Policy):
    """Grow and prune by expected tokens per second, from measured costs and predicted acceptance.

    ``dmax``: greatest depth; ``nmax``: greatest number of nodes; ``beam``: nodes of a level that
    are expanded at most; ``k``: candidates seen of each; ``probe``: greatest number of steps
    between two looks at a draft that does not pay (more where a draft pass costs as much as half a
    target pass).
    """

    dmax: int = 32
    nmax: int = 64
    beam: int = 12
    k: int = 10
    probe: int = 32

    name: ClassVar[str] = "sage"

    def __post_init__(self) -> None:
        self._at_least(1, "dmax", "nmax", "beam", "probe")
        self._at_least(2, "k")

    def planner(self) -> TreePlanner:
        return SagePlanner(self)

    @property
    def max_nodes(self) -> int:
        return self.nmax


class Grown(NamedTuple):
    """What was thought of one drafted level, kept to learn from.

    ``logits`` of all candidates, ``[row][rank]``; ``parents``: tree nodes of the rows; ``served``:
    logits of the rows' candidates holding the accepted token, from before they were drafted.
    """

    logits: list[list[float]]
    parents: list[int]
    served: list[float]


class SagePlanner(TreePlanner):
    """The state that shapes one text's trees: the rate achieved, what was accepted of late."""

    counts_costs = True
    asks_acceptance = True

    def __init__(self, options: Sage) -> None:
        self._o = options
        self.branching = options.k
        candidate, node = fitted()
        self._candidate, self._node = CandidateNetwork(candidate, options.k), NodeNetwork(node)
        self._sure = SureLevels(options.k)
        self._accepting, self._serving = Correction(), Correction()
        self._alpha, self._recent, self._lately = 0.7, _HELD, _HELD
        self._carry = [0.85] * (options.dmax + 1)  # a level holds where the one above did
        self._wait = self._pause = 0
        self.calibrate(UNKNOWN)
        self._start(Shape(), 0.0)

    def calibrate(self, costs: Costs) -> None:
        self.refine_costs(costs)
        self._begin(_BEFORE)

    def refine_costs(self, costs: Costs) -> None:
        self._verify = costs.verify(np.arange(1, self._o.nmax + 2)) + costs.step
        self._propose: list[float] = costs.propose(np.arange(1, self._o.beam + 1)).tolist()
        # Each node's share of the rise from a pass over the root alone to one over a full tree.
        self._per_node = float(self._verify[-1] - self._verify[0]) / self._o.nmax
        chosen = np.isin(np.arange(1, self._o.nmax + 2), [*_SIZES, self._o.nmax + 1])
        self._choices = self._verify + np.where(chosen, 0.0, _ODD * float(self._verify[0]))
        # A look costs a pass: the dearer it is the rarer, so that all of them stay a small part.
        passes = self._propose[0] / float(self._verify[0])
        self._rarest = max(self._o.probe, int(np.ceil(64 * passes)))
        # λ is never below the rate without a draft.
        self._least = 1.0 / float(self._verify[0])

    def _begin(self, rate: float) -> None:
        """Start λ at ``rate`` tokens per target pass, as if from `_WEIGHT` passes."""
        self._seconds = _WEIGHT / self._least
        self._tokens = rate * _WEIGHT
        self._rate = rate * self._least
        """λ, tokens per second, for one step."""

    def recall(self, learned: Mapping[str, float]) -> None:
        for name, correction in self._corrections.items():
            fresh = correction.state
            correction.recall({part: learned.get(f"{name}.{part}", fresh[part]) for part in fresh})
        recent, lately = (min(1.0, max(0.0, learned.get(n, _HELD))) for n in ("recent", "lately"))
        self._recent, self._lately = (_HELD + KEPT * (x - _HELD) for x in (recent, lately))
        # Short texts end before λ is found: too low a start drafts too deep all through them.
        self._begin(min(1.0 + self._o.dmax, max(_BEFORE, learned.get("rate", _BEFORE))))
        # Where drafting did not pay it is looked at again soon: this text may be another matter.
        self._pause = int(max(0.0, min(_SOON, learned.get("pause", 0.0))))

    def learned(self) -> dict[str, float]:
        learned = {
            "recent": self._recent,
            "lately": self._lately,
            "rate": self._tokens / (self._seconds * self._least),
            "pause": float(self._pause),
        }
        for name, correction in self._corrections.items():
            learned |= {f"{name}.{part}": value for part, value in correction.state.items()}
        return learned

    @property
    def _corrections(self) -> dict[str, Correction]:
        return {"accepting": self._accepting, "serving": self._serving}

    def _start(self, shape: Shape, served: float) -> None:
        self._shape = shape
        self._levels: list[Grown] = []
        self._accepted: list[float] = []  # predicted, of the drafted nodes
        self._ranks: list[int] = []
        self._spent = 0.0
        self._drafted = TokenTree()
        self._looking = self._sure_known = False
        self._served = {ROOT: served}  # of the nodes that are expanded

    def plan(self) -> Shape:
        """Foretell the depth from α of the last root and from what was accepted of late.

        Drafting may go deeper, and stops by what each level shows: a limit from the forecast cost
        more than it saved. Where not even the forecast's best depth pays, nothing is drafted.
        """
        self._rate = rate = max(self._least, self._tokens / self._seconds)
        root = Node(prob=1.0, alpha=self._alpha, accepted=1.0, rank=0)
        logits = self._node(0, [root], self._alpha, self._recent, self._lately)
        depth, gain = self._depth(rate, self._serving.chances(logits)[0])
        note = f"λ {rate * float(self._verify[0]):.2f} tokens per target pass, depth {depth} likely"
        if gain <= 0 and self._wait < self._pause:
            self._wait += 1
            depth, note = 0, f"drafting does not pay: next look in {self._pause - self._wait + 1}"
        elif gain <= 0:
            self._pause = min(self._rarest, 2 * self._pause + 1)
            self._wait = 0
            depth, note = 1, f"a look whether drafting pays; {note}"
        else:
            self._pause = self._wait = 0
            depth = self._o.dmax
        self._start(Shape(depth, alpha=self._alpha, note=note), logits[0])
        self._looking = depth > 0 and gain <= 0
        return self._shape

    def _depth(self, rate: float, served: float) -> tuple[int, float]:
        """The levels that will likely be drafted, and what they bring beyond their cost."""
        step = rate * (self._propose[0] + 2 * self._per_node)
        best, most, holds, gain = 0, -np.inf, served, 0.0
        for level in range(self._o.dmax):
            if level:
                holds *= self._carry[level]
            gain += holds - step
            if gain > most:
                best, most = level, gain
        return best + 1, most

    def grow(self, level: Level) -> Growth:
        growth = self._go_on(level)
        return self._weighed(level) if growth is None else growth

    def _go_on(self, level: Level) -> Growth | None:
        """The first candidate alone, where the draft is sure; None where others may be worth it.

        That is all but one in a hundred of such levels, and they are two of three with a good
        draft: not worth the time of a closer look.
        """
        if level.depth == 1 or len(level.frontier) > 1 or level.probs[0, 0] < SURE:
            return None
        parent = level.frontier[0]
        above = self._accepted[parent]
        if not self._sure_known:
            self._sure.begin(self._alpha + self._recent, self._lately)
            self._sure_known = True
        logit = self._sure.accepted(level.depth, above)
        if level.acceptance is not None:
            logit += float(level.acceptance[0, 0])
        logit = min(CERTAIN, max(-CERTAIN, logit))
        (chance,) = self._accepting.chances([logit])
        price = self._rate * self._per_node
        if above * (1 - chance) > price:
            return None
        self._levels.append(Grown([[logit]], [parent], [self._served[parent]]))
        self._spent += self._propose[0]
        accepted = above * chance
        self._accepted.append(accepted)
        self._ranks.append(0)
        if level.depth >= self._shape.depth:
            return _LAST
        logit = self._sure.serving(level.depth, accepted)
        (served,) = self._serving.chances([logit])
        self._served = {level.nodes: logit}
        return _FIRST if accepted * served - price > self._rate * self._propose[0] else _LAST

    def _weighed(self, level: Level) -> Growth:
        """All candidates of a level that may be worth a place, by the networks."""
        # Most levels hold two or three candidates that can come to anything: time is for those.
        every, parents = level.probs.tolist(), level.frontier
        wide = SERVED
        while wide < level.probs.shape[1] and any(row[wide] >= _SLIGHT for row in every):
            wide += 1
        probs = [row[:wide] for row in every]
        at_root = level.depth == 1
        rows = [Row()] if at_root else [Row(self._accepted[p], self._ranks[p]) for p in parents]
        logits, alphas = self._candidate(
            level.depth,
            probs,
            rows,
            None if at_root else self._alpha,
            self._recent,
            level.acceptance,
        )
        if at_root:
            self._alpha = alphas[0]
        served = [self._served[parent] for parent in parents]
        self._levels.append(Grown(logits, list(parents), served))
        self._spent += self._propose[min(len(rows), len(self._propose)) - 1]
        found = self._worthy(rows, logits, probs)
        self._accepted += [value for value, _, _ in found]
        self._ranks += [rank for _, _, rank in found]
        nodes = [Node(probs[row][rank], alphas[row], v, rank) for v, row, rank in found]
        return Growth(
            np.array([row for _, row, _ in found], dtype=np.int64),
            np.array([rank for _, _, rank in found], dtype=np.int64),
            self._expansion(level.depth, level.nodes, nodes),
        )

    def _worthy(
        self, rows: Sequence[Row], logits: list[list[float]], probs: list[list[float]]
    ) -> list[tuple[float, int, int]]:
        """Candidates that may be worth a place: (chance of acceptance, row, rank), in order."""
        least = 0.25 * self._rate * self._per_node
        found: list[tuple[float, int, int]] = []
        for number, row in enumerate(rows):
            chances = self._accepting.chances(logits[number])
            if probs[number][-1] <= 0:
                chances = [c * (p > 0) for c, p in zip(chances, probs[number], strict=True)]
            # Children of one parent exclude each other.
            share = row.accepted / max(1.0, sum(chances))
            found += [(c * share, number, i) for i, c in enumerate(chances) if c * share > least]
        limit = 2 * self._o.nmax
        if len(found) > limit:
            best = sorted(range(len(found)), key=lambda i: -found[i][0])[:limit]
            found = [found[i] for i in sorted(best)]
        return found

    def _expansion(self, depth: int, first: int, nodes: Sequence[Node]) -> np.ndarray:
        """Which nodes of a level get children: those that bring more than they cost, if any do.

        ``first`` is the index of the level's first node in the drafted tree.
        """
        price = self._rate * self._per_node
        able = [i for i, node in enumerate(nodes) if node.accepted > price]
        most_possible = sum(nodes[i].accepted - price for i in able)
        if depth >= self._shape.depth or most_possible <= self._rate * self._propose[0]:
            return np.zeros(len(nodes), dtype=bool)
        logits = self._node(
            depth, [nodes[i] for i in able], self._alpha, self._recent, self._lately
        )
        chances = self._serving.chances(logits)
        gains = [(nodes[i].accepted * c - price, i) for i, c in zip(able, chances, strict=True)]
        gains = sorted(gains, key=lambda gain: -gain[0])[: self._o.beam]
        count, most, total = 0, 0.0, 0.0
        for number, (gain, _) in enumerate(gains, 1):
            total += gain
            if gain > 0 and total - self._rate * self._propose[number - 1] > most:
                count, most = number, total - self._rate * self._propose[number - 1]
        chosen = {i for _, i in gains[:count]}
        self._served = {first + i: x for i, x in zip(able, logits, strict=True)}
        return np.array([i in chosen for i in range(len(nodes))], dtype=bool)

    def prune(self, tree: TokenTree) -> TokenTree:
        """Keep the nodes of all levels that are worth verifying (re-ranking, as in EAGLE-2)."""
        self._drafted = tree
        kept = worth_verifying(np.array(self._accepted), self._choices, self._rate)
        return tree if len(kept) == len(tree) else tree.subset(kept.tolist())

    def observe(self, tree: TokenTree, nodes: Sequence[int], tokens: Sequence[int]) -> None:
        self._tokens = 0.97 * self._tokens + len(tokens)
        spent = self._spent + float(self._verify[min(len(tree), self._o.nmax)])
        self._seconds = 0.97 * self._seconds + spent
        if not self._levels:
            return
        self._learn(tokens)
        if self._looking and nodes:  # it came true: what was thought so little of may be wrong
            self._accepting.doubt()
            self._serving.doubt()
            self._pause = 0

    def _learn(self, tokens: Sequence[int]) -> None:
        for depth, (level, row, rank) in enumerate(self._outcomes(tokens)):
            self._accepting.learn(level.logits[row], rank)
            held = 0 <= rank < SERVED
            self._serving.learn(level.served[row : row + 1], 0 if held else -1)
            self._recent += 0.05 * (held - self._recent)
            if depth == 0:
                self._lately += 0.1 * (held - self._lately)
            else:
                self._carry[depth] += 0.05 * (held - self._carry[depth])

    def _outcomes(self, tokens: Sequence[int]) -> Iterator[tuple[Grown, int, int]]:
        """Walk the drafted tree along what was committed; nodes that were pruned count as well.

        Of each level that was reached: the level, the row of the text's own node, and the rank of
        its accepted candidate, -1 if none was.
        """
        parent = ROOT
        for level, token in zip(self._levels, tokens, strict=False):
            if parent not in level.parents:
                return
            node = self._drafted.child(parent, token)
            rank = -1 if node is None else self._drafted.ranks[node]
            yield level, level.parents.index(parent), rank
            if node is None:
                return
            parent = node


def worth_verifying(accepted: np.ndarray, seconds: np.ndarray, rate: float) -> np.ndarray:
    """The nodes whose verification brings most tokens beyond what its time is worth.

    Args:
        accepted: (nodes,) chance of each that it is accepted, no child's above its parent's.
        seconds: (limit + 1,) of a verification of 0, 1, ... nodes.
        rate: λ, tokens per second.

    Returns:
        Indices, best first: those that maximise Σ accepted - rate · seconds[number]. A parent
        never comes after its child, so that they form a tree.
    """
    order = np.argsort(-accepted, kind="stable")[: len(seconds) - 1]
    gains = np.concatenate([[0.0], np.cumsum(accepted[order])]) - rate * seconds[: len(order) + 1]
    return order[: int(gains.argmax())]

"""The default policy: trees that maximise tokens per second on this device, with these models.

A step commits 1 + Σ a tokens in expectation, a being each node's chance of acceptance, and takes
c_t(nodes) + c_d · passes seconds. The tree with the highest ratio is found by Dinkelbach's
iteration: with λ the rate achieved so far, a node or a pass is worth it if the tokens that it adds
exceed λ times its seconds. docs/method.md explains the decisions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from sage_core.trees.pass_costs import Costs
from sage_core.trees.policies.sage.networks import (
    CONFIDENT,
    HIT_RANKS,
    MAX_LOGIT,
    ConfidentLevels,
    Node,
    Parent,
    planner_networks,
)
from sage_core.trees.policies.sage.platt_scaling import KEPT, PlattScaling
from sage_core.trees.policy import Growth, Level, Policy, TreePlanner, likeliest
from sage_core.trees.steps import Shape
from sage_core.trees.tree import ROOT, TokenTree

_HIT_RATE = 0.9  # assumed before anything is observed
_FIRST_RATE, _WEIGHT = 1.5, 12.0  # tokens per target pass assumed at first, as if of so many passes
_FIRST_PAUSE = 3  # steps before the first probe of a text, where drafting did not pay before
_SIZES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 48)
_NEW_SIZE = 0.1
"""Extra cost of verifying another number of tokens than these, in passes over one token: libraries
prepare kernels for every new number, which takes about half a pass."""
_MIN_PROB = 1e-3
"""Beyond the first few ranks, candidates of a smaller draft probability are not considered."""
_ZERO = np.broadcast_to(0, 1)  # read-only
_FIRST, _LAST = (Growth(_ZERO, _ZERO, np.broadcast_to(more, 1)) for more in (True, False))
"""The first candidate of a level's only node, expanded and not expanded."""
UNKNOWN = Costs.linear(1.0, 0.01, 0.1)
"""Costs assumed where nothing was measured; only their ratios matter."""


@dataclass(frozen=True)
class Sage(Policy):
    """Grow and prune by expected tokens per second, from measured costs and predicted acceptance.

    ``dmax``: maximum depth; ``nmax``: maximum number of nodes; ``beam``: maximum number of nodes
    expanded per level; ``k``: candidates per node; ``probe``: maximum number of steps between two
    probes of a draft that does not pay (more where a draft pass costs over half a target pass).
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


class DraftedLevel(NamedTuple):
    """The predictions for one drafted level, kept until its outcome is known.

    ``logits``: of all candidates, ``[parent][rank]``. ``parents``: their tree nodes.
    ``hit_logits``: of each parent's candidates hitting, predicted before they were drafted.
    """

    logits: list[list[float]]
    parents: list[int]
    hit_logits: list[float]


class SagePlanner(TreePlanner):
    """State of one text: the achieved rate, moving hit rates, online corrections."""

    counts_costs = True
    asks_acceptance = True

    def __init__(self, options: Sage) -> None:
        self._o = options
        self.branching = options.k
        self._candidate, self._node = planner_networks(options.k)
        self._confident = ConfidentLevels(self._candidate, self._node, options.k)
        self._acceptance, self._hits = PlattScaling(), PlattScaling()
        self._alpha = 0.7
        """α of the last step's root."""
        self._recent = self._lately = _HIT_RATE
        """Moving hit rates: of all levels that were reached, and of the roots."""
        self._carry = [0.85] * (options.dmax + 1)
        """By level: how often it hits where the one above did."""
        self._wait = self._pause = 0
        self.calibrate(UNKNOWN)
        self._begin_step(Shape(), 0.0)

    def calibrate(self, costs: Costs) -> None:
        self.refine_costs(costs)
        self._start_rate(_FIRST_RATE)

    def refine_costs(self, costs: Costs) -> None:
        self._verify = costs.verify(np.arange(1, self._o.nmax + 2)) + costs.step
        self._propose: list[float] = costs.propose(np.arange(1, self._o.beam + 1)).tolist()
        # A node's mean share of the cost of a full tree beyond a pass over the root alone.
        self._per_node = float(self._verify[-1] - self._verify[0]) / self._o.nmax
        usual = np.isin(np.arange(1, self._o.nmax + 2), [*_SIZES, self._o.nmax + 1])
        self._verify_sizes = self._verify + np.where(usual, 0.0, _NEW_SIZE * float(self._verify[0]))
        # A probe costs a draft pass: the costlier, the rarer.
        passes = self._propose[0] / float(self._verify[0])
        self._longest_pause = max(self._o.probe, int(np.ceil(64 * passes)))
        # λ is never below the rate without a draft.
        self._least = 1.0 / float(self._verify[0])

    def _start_rate(self, rate: float) -> None:
        """Start λ at ``rate`` tokens per target pass, weighted as `_WEIGHT` passes."""
        self._seconds = _WEIGHT / self._least
        self._tokens = rate * _WEIGHT
        self._rate = rate * self._least
        """λ of this step, in tokens per second."""

    def recall(self, learned: Mapping[str, float]) -> None:
        for name, scaling in self._scalings.items():
            fresh = scaling.state
            scaling.recall({part: learned.get(f"{name}.{part}", fresh[part]) for part in fresh})
        rates = (min(1.0, max(0.0, learned.get(x, _HIT_RATE))) for x in ("recent", "lately"))
        self._recent, self._lately = (_HIT_RATE + KEPT * (rate - _HIT_RATE) for rate in rates)
        # Short texts end before λ converges, and a λ that is too low drafts too deep.
        rate = max(_FIRST_RATE, learned.get("rate", _FIRST_RATE))
        self._start_rate(min(1.0 + self._o.dmax, rate))
        # Where drafting did not pay it is probed again soon, since this text may differ.
        self._pause = int(max(0.0, min(_FIRST_PAUSE, learned.get("pause", 0.0))))

    def learned(self) -> dict[str, float]:
        learned = {
            "recent": self._recent,
            "lately": self._lately,
            "rate": self._tokens / (self._seconds * self._least),
            "pause": float(self._pause),
        }
        for name, scaling in self._scalings.items():
            learned |= {f"{name}.{part}": value for part, value in scaling.state.items()}
        return learned

    @property
    def _scalings(self) -> dict[str, PlattScaling]:
        """By the names under which they are stored."""
        return {"accepting": self._acceptance, "serving": self._hits}

    def _begin_step(self, shape: Shape, root_hit_logit: float) -> None:
        self._shape = shape
        self._levels: list[DraftedLevel] = []
        self._accepted: list[float] = []
        """Predicted chance of every drafted node, in node order."""
        self._ranks: list[int] = []
        self._draft_seconds = 0.0
        self._drafted = TokenTree()
        self._probing = self._tables_ready = False
        self._hit_logits = {ROOT: root_hit_logit}
        """Of the expanded nodes."""

    def plan(self) -> Shape:
        """Predict the depth from α of the last root and the hit rates; decide whether to draft.

        The prediction does not limit the depth: drafting stops by what each level shows. If not
        even the best predicted depth pays, nothing is drafted, except for a probe now and then.
        """
        self._rate = rate = max(self._least, self._tokens / self._seconds)
        root = Node(prob=1.0, alpha=self._alpha, accepted=1.0, rank=0)
        (hit_logit,) = self._node(0, [root], self._alpha, self._recent, self._lately)
        depth, gain = self._predicted_depth(self._hits.probabilities([hit_logit])[0])
        note = f"λ {rate * float(self._verify[0]):.2f} tokens per target pass, depth {depth} likely"
        if gain <= 0 and self._wait < self._pause:
            self._wait += 1
            depth, note = 0, f"drafting does not pay: next probe in {self._pause - self._wait + 1}"
        elif gain <= 0:
            self._pause = min(self._longest_pause, 2 * self._pause + 1)
            self._wait = 0
            depth, note = 1, f"probing whether drafting pays; {note}"
        else:
            self._pause = self._wait = 0
            depth = self._o.dmax
        self._begin_step(Shape(depth, alpha=self._alpha, note=note), hit_logit)
        self._probing = depth > 0 and gain <= 0
        return self._shape

    def _predicted_depth(self, root_hits: float) -> tuple[int, float]:
        """The depth of greatest expected gain, and that gain in tokens beyond its cost."""
        level_cost = self._rate * (self._propose[0] + 2 * self._per_node)
        best, most, hits, gain = 0, -np.inf, root_hits, 0.0
        for level in range(self._o.dmax):
            if level:
                hits *= self._carry[level]
            gain += hits - level_cost
            if gain > most:
                best, most = level, gain
        return best + 1, most

    def grow(self, level: Level) -> Growth:
        growth = self._grow_confident(level)
        return self._grow_by_networks(level) if growth is None else growth

    def _grow_confident(self, level: Level) -> Growth | None:
        """The first candidate alone, where the draft is confident; None where others may pay.

        Others pay at about one in a hundred of these levels, which are two of three with a good
        draft, so that the networks are not evaluated for them.
        """
        if level.depth == 1 or len(level.frontier) > 1 or level.probs[0, 0] < CONFIDENT:
            return None
        parent = level.frontier[0]
        above = self._accepted[parent]
        if not self._tables_ready:
            self._confident.begin(self._alpha + self._recent, self._lately)
            self._tables_ready = True
        logit = self._confident.accepted(level.depth, above)
        if level.acceptance is not None:
            logit += float(level.acceptance[0, 0])
        logit = min(MAX_LOGIT, max(-MAX_LOGIT, logit))
        (chance,) = self._acceptance.probabilities([logit])
        price = self._rate * self._per_node
        if above * (1 - chance) > price:
            return None
        self._levels.append(DraftedLevel([[logit]], [parent], [self._hit_logits[parent]]))
        self._draft_seconds += self._propose[0]
        accepted = above * chance
        self._accepted.append(accepted)
        self._ranks.append(0)
        if level.depth >= self._shape.depth:
            return _LAST
        logit = self._confident.hits(level.depth, accepted)
        (hits,) = self._hits.probabilities([logit])
        self._hit_logits = {level.nodes: logit}
        return _FIRST if accepted * hits - price > self._rate * self._propose[0] else _LAST

    def _grow_by_networks(self, level: Level) -> Growth:
        """All candidates of a level that may pay, by the networks' predictions."""
        # Most levels have two or three candidates with any chance: only those are evaluated.
        every = level.probs.tolist()
        wide = HIT_RANKS
        while wide < level.probs.shape[1] and any(row[wide] >= _MIN_PROB for row in every):
            wide += 1
        probs = [row[:wide] for row in every]
        at_root = level.depth == 1
        parents = [Parent()]
        if not at_root:
            parents = [Parent(self._accepted[p], self._ranks[p]) for p in level.frontier]
        alpha = None if at_root else self._alpha
        logits, alphas = self._candidate(
            level.depth, probs, parents, alpha, self._recent, level.acceptance
        )
        if at_root:
            self._alpha = alphas[0]
        hit_logits = [self._hit_logits[parent] for parent in level.frontier]
        self._levels.append(DraftedLevel(logits, list(level.frontier), hit_logits))
        self._draft_seconds += self._propose[min(len(parents), len(self._propose)) - 1]
        chosen = self._choose(parents, logits, probs)
        self._accepted += [chance for chance, _, _ in chosen]
        self._ranks += [rank for _, _, rank in chosen]
        nodes = [Node(probs[i][rank], alphas[i], chance, rank) for chance, i, rank in chosen]
        return Growth(
            np.array([i for _, i, _ in chosen], dtype=np.int64),
            np.array([rank for _, _, rank in chosen], dtype=np.int64),
            self._expand(level.depth, level.nodes, nodes),
        )

    def _choose(
        self, parents: Sequence[Parent], logits: list[list[float]], probs: list[list[float]]
    ) -> list[tuple[float, int, int]]:
        """Candidates that may be worth a node: (chance of acceptance, parent, rank), in order."""
        least = 0.25 * self._rate * self._per_node
        chosen: list[tuple[float, int, int]] = []
        for i, parent in enumerate(parents):
            chances = self._acceptance.probabilities(logits[i])
            if probs[i][-1] <= 0:
                chances = [c * (p > 0) for c, p in zip(chances, probs[i], strict=True)]
            # Siblings exclude each other: their chances sum to at most the parent's.
            share = parent.accepted / max(1.0, sum(chances))
            chosen += [(c * share, i, rank) for rank, c in enumerate(chances) if c * share > least]
        limit = 2 * self._o.nmax
        if len(chosen) > limit:
            best = sorted(range(len(chosen)), key=lambda i: -chosen[i][0])[:limit]
            chosen = [chosen[i] for i in sorted(best)]
        return chosen

    def _expand(self, depth: int, first: int, nodes: Sequence[Node]) -> np.ndarray:
        """bool (nodes,): which nodes of a level are expanded, the set with the greatest net gain.

        ``first`` is the index of the level's first node in the drafted tree.
        """
        price = self._rate * self._per_node
        able = [i for i, node in enumerate(nodes) if node.accepted > price]
        upper_bound = sum(nodes[i].accepted - price for i in able)
        if depth >= self._shape.depth or upper_bound <= self._rate * self._propose[0]:
            return np.zeros(len(nodes), dtype=bool)
        logits = self._node(
            depth, [nodes[i] for i in able], self._alpha, self._recent, self._lately
        )
        hits = self._hits.probabilities(logits)
        gains = [(nodes[i].accepted * hit - price, i) for i, hit in zip(able, hits, strict=True)]
        gains = sorted(gains, key=lambda gain: -gain[0])[: self._o.beam]
        count, most, total = 0, 0.0, 0.0
        for number, (gain, _) in enumerate(gains, 1):
            total += gain
            if gain > 0 and total - self._rate * self._propose[number - 1] > most:
                count, most = number, total - self._rate * self._propose[number - 1]
        chosen = {i for _, i in gains[:count]}
        self._hit_logits = {first + i: x for i, x in zip(able, logits, strict=True)}
        return np.array([i in chosen for i in range(len(nodes))], dtype=bool)

    def prune(self, tree: TokenTree) -> TokenTree:
        """The nodes of all levels that are worth verifying (re-ranking, as in EAGLE-2)."""
        self._drafted = tree
        kept = worth_verifying(np.array(self._accepted), self._verify_sizes, self._rate)
        return tree if len(kept) == len(tree) else tree.subset(kept.tolist())

    def observe(self, tree: TokenTree, nodes: Sequence[int], tokens: Sequence[int]) -> None:
        self._tokens = 0.97 * self._tokens + len(tokens)
        spent = self._draft_seconds + float(self._verify[min(len(tree), self._o.nmax)])
        self._seconds = 0.97 * self._seconds + spent
        if not self._levels:
            return
        self._update(tokens)
        if self._probing and nodes:  # the prediction was wrong
            self._acceptance.discount()
            self._hits.discount()
            self._pause = 0

    def _update(self, tokens: Sequence[int]) -> None:
        for depth, (level, i, rank) in enumerate(self._outcomes(tokens)):
            self._acceptance.update(level.logits[i], rank)
            hit = 0 <= rank < HIT_RANKS
            self._hits.update(level.hit_logits[i : i + 1], 0 if hit else -1)
            self._recent += 0.05 * (hit - self._recent)
            if depth == 0:
                self._lately += 0.1 * (hit - self._lately)
            else:
                self._carry[depth] += 0.05 * (hit - self._carry[depth])

    def _outcomes(self, tokens: Sequence[int]) -> Iterator[tuple[DraftedLevel, int, int]]:
        """Follow the committed tokens through the drafted tree, pruned nodes included.

        Yields for each level that was reached: the level, the index of the parent on the path, and
        the rank of its accepted candidate, -1 if none was.
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
    """The nodes that maximise Σ accepted - rate · seconds[number of nodes].

    Args:
        accepted: float (nodes,), each node's chance of acceptance, none above its parent's.
        seconds: float (limit + 1,), of verifying 0, 1, ... nodes.
        rate: λ, in tokens per second.

    Returns:
        Node indices, best first. Parents come before their children, so the nodes form a tree.
    """
    order = likeliest(accepted, len(seconds) - 1)
    gains = np.concatenate([[0.0], np.cumsum(accepted[order])]) - rate * seconds[: len(order) + 1]
    return order[: int(gains.argmax())]

"""A draft model's tree with branches that were looked up, while these earn what they cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING

from sage_core.lookup import Found, Ngram, NgramDrafter
from sage_core.policies.base import Growth, Level, Shaper
from sage_core.steps import Shape
from sage_core.tree import ROOT, TokenTree

if TYPE_CHECKING:
    from torch import Tensor

    from sage_core.drafter import Drafter, Proposal
    from sage_core.text import Text
    from sage_core.verify import Acceptance

__all__ = ["OwnPart", "Payoff", "WithLookup", "graft"]


def graft(tree: TokenTree, other: TokenTree) -> TokenTree:
    """``tree`` with the nodes of ``other`` that it lacks, behind its own, whose indices stay."""
    tokens, parents = list(tree.tokens), list(tree.parents)
    probs, ranks = list(tree.probs), list(tree.ranks)
    place = {ROOT: ROOT}
    siblings = {ROOT: len(tree.children(ROOT))}
    for node, (token, above) in enumerate(zip(other.tokens, other.parents, strict=True)):
        parent = place[above]
        found = tree.child(parent, token) if parent < len(tree) else None
        if found is None:
            found = len(tokens)
            rank = siblings.setdefault(parent, len(tree.children(parent)))
            siblings[parent] += 1
            tokens.append(token)
            parents.append(parent)
            probs.append(other.probs[node])
            ranks.append(rank)
        place[node] = found
    if len(tokens) == len(tree):
        return tree
    return TokenTree(tuple(tokens), tuple(parents), tuple(probs), tuple(ranks))


@dataclass
class Payoff:
    """Whether looked-up branches pay: tokens and nodes of late, by the length of the match.

    Both are exponential averages over about ten lookups. They begin as if branches just paid, and
    go on being kept while branches stay out, from what they would have told.
    """

    price: float
    rate: float = 0.1

    def __post_init__(self) -> None:
        self._gains: dict[int, float] = {}
        self._nodes: dict[int, float] = {}

    def pays(self, match: int, nodes: int) -> bool:
        """Whether ``nodes`` branches of a match of this length are worth their price."""
        spent = self._nodes.get(match, float(nodes))
        return self._gains.get(match, self.price * spent) >= self.price * spent

    def learn(self, match: int, nodes: int, gained: int) -> None:
        """``nodes`` branches brought ``gained`` tokens, or would have brought at least so many."""
        spent = self._nodes.get(match, float(nodes))
        gains = self._gains.get(match, self.price * spent)
        self._nodes[match] = spent + self.rate * (nodes - spent)
        self._gains[match] = gains + self.rate * (gained - gains)


class WithLookup:
    """A `Drafter` around another: its tree, and branches of a lookup where they pay.

    Args:
        drafter: drafts with a model.
        lookup: looks up in the same text.
        options: the lookup's.
    """

    def __init__(self, drafter: Drafter, lookup: NgramDrafter, options: Ngram) -> None:
        self._drafter = drafter
        self._lookup = lookup
        self._payoff = Payoff(options.price)
        self._found = Found()
        self._own = TokenTree()
        self._added = 0
        self._accepted = 0

    def prefill(self, first: int) -> None:
        self._drafter.prefill(first)
        self._lookup.prefill(first)

    def propose(self, shaper: Shaper, text: Text) -> Proposal:
        proposal = self._drafter.propose(shaper, text)
        started = perf_counter()
        self._own, self._found = proposal.tree, self._lookup.find(text)
        whole = graft(self._own, self._found.tree)
        self._added = len(whole) - len(self._own)
        if self._added and self._payoff.pays(self._found.match, self._added):
            note = f"{proposal.shape.note}; {self._added} nodes looked up".removeprefix("; ")
            shape = replace(proposal.shape, note=note)
            proposal = replace(proposal, tree=whole, shape=shape)
        spent = proposal.plan_seconds + perf_counter() - started
        return replace(proposal, plan_seconds=spent)

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        # The draft's own nodes come first in the tree, so it knows which of the path it has passed.
        self._drafter.observe(tree, outcome, hidden)
        self._lookup.observe(tree, outcome, hidden)
        self._accepted = sum(node < len(self._own) for node in outcome.nodes)
        if self._added:
            told = _depth(self._found.tree, outcome.tokens)
            self._payoff.learn(self._found.match, self._added, max(0, told - self._accepted))

    def own(self) -> tuple[TokenTree, int]:
        """The draft's own tree of the latest step, and how many of its nodes were accepted."""
        return self._own, self._accepted


def _depth(tree: TokenTree, tokens: tuple[int, ...]) -> int:
    """How many of ``tokens``, from the first, are a path of ``tree``."""
    node = ROOT
    for depth, token in enumerate(tokens):
        child = tree.child(node, token)
        if child is None:
            return depth
        node = child
    return len(tokens)


class OwnPart(Shaper):
    """A policy's shaper that learns from the tree it formed, not from what was added to it."""

    def __init__(self, shaper: Shaper, drafter: WithLookup) -> None:
        self._shaper = shaper
        self._drafter = drafter
        self.branching = shaper.branching

    def plan(self) -> Shape:
        return self._shaper.plan()

    def grow(self, level: Level) -> Growth:
        return self._shaper.grow(level)

    def prune(self, tree: TokenTree) -> TokenTree:
        return self._shaper.prune(tree)

    def observe(self, tree: TokenTree, accepted: int) -> None:
        self._shaper.observe(*self._drafter.own())

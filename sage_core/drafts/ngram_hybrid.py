"""A draft model's tree with branches that were looked up, while these earn what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

from sage_core.drafts.ngram import Match, NgramDrafter
from sage_core.trees.policy import PlannerWrapper, TreePlanner
from sage_core.trees.tree import ROOT, TokenTree

if TYPE_CHECKING:
    from torch import Tensor

    from sage_core.drafts.drafter import Drafter
    from sage_core.generation.sequence import TokenSequence
    from sage_core.trees.steps import Acceptance, Proposal

__all__ = ["OwnPart", "Payoff", "WithLookup", "graft"]


_CREDIT = 3.0
"""How many times their price branches are taken to have earned before anything is known."""

_AS_GOOD = 0.8
"""Lookups save all draft passes: commits of this share of the draft's are no loss of time."""


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


class Payoff:
    """What looked-up branches have earned of late, by the length of their match.

    All figures are exponential averages over about five lookups. Branches begin with some credit,
    and the draft as the better one. While branches stay out, what they would have
    brought is still seen, as far as the committed tokens tell.
    """

    def __init__(self, price: float, rate: float = 0.2) -> None:
        self._price = price
        self._rate = rate
        self._gained: dict[int, float] = {}
        self._added: dict[int, float] = {}
        self._reached: dict[int, float] = {}
        self._own = 1.0

    def pays(self, match: int) -> bool:
        """Whether branches of a match of this length have earned their price."""
        added = self._added.get(match)
        return added is None or self._gained[match] >= self._price * added

    def leads(self, match: int) -> bool:
        """Whether lookups alone commit nearly as much a step as the draft's own trees, for less."""
        return 1 + self._reached.get(match, 0.0) >= _AS_GOOD * (1 + self._own)

    def learn(self, match: int, added: int, reached: int, own: int | None) -> None:
        """A lookup's path was right for ``reached`` tokens and the draft's for ``own``.

        ``added`` nodes of the lookup were not the draft's already. None: the draft did not draft.
        """
        if own is not None:
            self._own += self._rate * (own - self._own)
        if not match:
            return
        _move(self._reached, match, reached, 0.0, self._rate)
        if own is not None and added:
            _move(self._added, match, added, added, self._rate)
            gained = max(0, reached - own)
            _move(self._gained, match, gained, _CREDIT * self._price * added, self._rate)


def _move(table: dict[int, float], key: int, value: float, first: float, rate: float) -> None:
    """Take the average a step towards ``value``; it begins at ``first``."""
    before = table.get(key, first)
    table[key] = before + rate * (value - before)


class WithLookup:
    """A `Drafter` around another: its tree, and branches of a lookup where they pay.

    Where the lookups alone do as well as the other, that one rests: its passes are saved.

    Args:
        drafter: drafts with a model.
        lookup: looks up in the same text.
        payoff: what lookups have earned; it learns more.
    """

    def __init__(self, drafter: Drafter, lookup: NgramDrafter, payoff: Payoff) -> None:
        self._drafter = drafter
        self._lookup = lookup
        self._payoff = payoff
        self._found = Match()
        self._own: TokenTree | None = None
        self._added = 0
        self._accepted: tuple[int, ...] = ()

    def prefill(self, first: int) -> None:
        self._drafter.prefill(first)
        self._lookup.prefill(first)

    def propose(self, planner: TreePlanner, text: TokenSequence) -> Proposal:
        started = perf_counter()
        found = self._found = self._lookup.find(text)
        looking = perf_counter() - started
        if len(found.tree) and self._payoff.leads(found.match):
            self._own = None
            alone = self._lookup.proposal(found)
            return replace(alone, plan_seconds=looking)
        proposal = self._drafter.propose(planner, text)
        started = perf_counter()
        self._own = proposal.tree
        whole = graft(self._own, found.tree)
        self._added = len(whole) - len(self._own)
        if self._added and self._payoff.pays(found.match):
            note = f"{proposal.shape.note}; {self._added} nodes looked up".removeprefix("; ")
            proposal = replace(proposal, tree=whole, shape=replace(proposal.shape, note=note))
        looking += perf_counter() - started
        return replace(proposal, plan_seconds=proposal.plan_seconds + looking)

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        # The draft's own nodes come first in the tree, so it knows which of the path it has passed.
        self._drafter.observe(tree, outcome, hidden)
        self._lookup.observe(tree, outcome, hidden)
        own = None
        if self._own is not None:
            self._accepted = tuple(node for node in outcome.nodes if node < len(self._own))
            own = len(self._accepted)
        reached = _depth(self._found.tree, outcome.tokens)
        self._payoff.learn(self._found.match, self._added, reached, own)

    def own(self) -> tuple[TokenTree, tuple[int, ...]] | None:
        """The draft's own tree of the latest step and its accepted path; None if it rested."""
        return None if self._own is None else (self._own, self._accepted)


def _depth(tree: TokenTree, tokens: tuple[int, ...]) -> int:
    """How many of ``tokens``, from the first, are a path of ``tree``."""
    node = ROOT
    for depth, token in enumerate(tokens):
        child = tree.child(node, token)
        if child is None:
            return depth
        node = child
    return len(tokens)


class OwnPart(PlannerWrapper):
    """A policy's shaper that learns from the tree it formed, not from what was added to it."""

    def __init__(self, planner: TreePlanner, drafter: WithLookup) -> None:
        super().__init__(planner)
        self._drafter = drafter

    def observe(self, tree: TokenTree, nodes: Sequence[int], tokens: Sequence[int]) -> None:
        own = self._drafter.own()
        if own is not None:
            drafted, path = own
            self._planner.observe(drafted, path, tokens[: len(path) + 1])

"""A draft's tree with branches that were looked up, while these earn what they cost."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

from torch import Tensor

from sage_core.drafts.drafter import Drafter
from sage_core.drafts.ngram import Match
from sage_core.drafts.ngram_drafter import NgramDrafter
from sage_core.generation.sequence import TokenSequence
from sage_core.runtime.passes import Passes
from sage_core.runtime.runner import PromptOutputs
from sage_core.trees.policy import TreePlanner
from sage_core.trees.steps import Acceptance, Proposal
from sage_core.trees.tree import ROOT, TokenTree

__all__ = ["HybridDrafter", "Payoff", "graft"]

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


class HybridDrafter(Drafter):
    """A draft's tree, with branches of a lookup where these pay.

    Where lookups alone do as well as the draft, no draft passes are made.

    Args:
        drafter: drafts with a model.
        lookup: finds matches in the same text.
        payoff: what lookups have earned; updated here.
    """

    def __init__(self, drafter: Drafter, lookup: NgramDrafter, payoff: Payoff) -> None:
        self._drafter = drafter
        self._lookup = lookup
        self._payoff = payoff
        self.needs_features = drafter.needs_features
        self._latest: tuple[Match, TokenTree | None, int] | None = None
        """Of the step under way: the match, the draft's own tree (None: it did not draft), and the
        nodes that the match added to it."""

    @property
    def started(self) -> bool:
        return self._drafter.started

    def prefill(self, first: int, prompt: PromptOutputs) -> Passes[None]:
        yield from self._drafter.prefill(first, prompt)
        yield from self._lookup.prefill(first, prompt)

    def propose(self, planner: TreePlanner, sequence: TokenSequence) -> Passes[Proposal]:
        begun = perf_counter()
        match = self._lookup.find(sequence)
        seconds = perf_counter() - begun
        if len(match.tree) and self._payoff.leads(match.match):
            self._latest = match, None, 0
            return replace(self._lookup.proposal(match), plan_seconds=seconds)
        proposal = yield from self._drafter.propose(planner, sequence)
        begun = perf_counter()
        whole = graft(proposal.tree, match.tree)
        added = len(whole) - len(proposal.tree)
        self._latest = match, proposal.tree, added
        if added and self._payoff.pays(match.match):
            note = f"{proposal.shape.note}; {added} nodes looked up".removeprefix("; ")
            proposal = replace(proposal, tree=whole, shape=replace(proposal.shape, note=note))
        seconds += perf_counter() - begun
        return replace(proposal, plan_seconds=proposal.plan_seconds + seconds)

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        # The draft's own nodes come first in the tree, so it knows which of the path it has passed.
        self._drafter.observe(tree, outcome, hidden)
        self._lookup.observe(tree, outcome, hidden)
        if self._latest is None:  # the tree was not of this draft's making
            return
        match, own, added = self._latest
        self._latest = None
        accepted = None if own is None else sum(node < len(own) for node in outcome.nodes)
        reached = _depth(match.tree, outcome.tokens)
        self._payoff.learn(match.match, added, reached, accepted)


def _depth(tree: TokenTree, tokens: tuple[int, ...]) -> int:
    """How many of ``tokens``, from the first, are a path of ``tree``."""
    node = ROOT
    for depth, token in enumerate(tokens):
        child = tree.child(node, token)
        if child is None:
            return depth
        node = child
    return len(tokens)

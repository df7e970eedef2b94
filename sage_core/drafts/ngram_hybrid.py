"""Drafting by n-gram lookup: alone, or as branches of a draft's tree while these pay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from time import perf_counter

from torch import Tensor

from sage_core.drafts.drafter import Drafter, PasslessDrafter
from sage_core.drafts.ngram import Match, Ngram, NgramIndex
from sage_core.generation.sequence import TokenSequence
from sage_core.runtime.passes import Passes
from sage_core.runtime.runner import PromptOutputs
from sage_core.trees.policy import TreePlanner
from sage_core.trees.steps import Acceptance, Proposal, Shape
from sage_core.trees.tree import ROOT, TokenTree

__all__ = ["HybridDrafter", "LookupGains", "NgramDrafter", "graft"]

_INITIAL_GAIN = 3.0
"""Assumed gain of branches before any was measured, in multiples of their price."""

_SUFFICIENT = 0.8
"""Lookups save all draft passes: they may commit this share of what the draft's trees commit."""


def graft(tree: TokenTree, other: TokenTree) -> TokenTree:
    """``tree`` with the nodes of ``other`` that it lacks appended; its own indices stay."""
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


class LookupGains:
    """Accepted tokens that looked-up branches gain, by the length of their match.

    All figures are exponential averages over about five lookups. They are updated for branches
    that were left out, too, from the committed tokens.
    """

    def __init__(self, price: float, rate: float = 0.2) -> None:
        self._price = price
        self._rate = rate
        self._gained: dict[int, float] = {}
        self._added: dict[int, float] = {}
        self._accepted: dict[int, float] = {}
        self._draft_accepted = 1.0

    def pays(self, length: int) -> bool:
        """Whether branches of a match of this length gain at least their price."""
        added = self._added.get(length)
        return added is None or self._gained[length] >= self._price * added

    def suffices(self, length: int) -> bool:
        """Whether lookups alone commit about as many tokens per step as the draft's trees."""
        return 1 + self._accepted.get(length, 0.0) >= _SUFFICIENT * (1 + self._draft_accepted)

    def update(self, length: int, added: int, accepted: int, by_draft: int | None) -> None:
        """Take the outcome of a step.

        Args:
            length: of the match; 0: none.
            added: nodes of the lookup that the draft's tree lacks.
            accepted: committed tokens that are a path of the lookup's tree.
            by_draft: accepted nodes of the draft's tree; None: it did not draft.
        """
        if by_draft is not None:
            self._draft_accepted += self._rate * (by_draft - self._draft_accepted)
        if not length:
            return
        self._average(self._accepted, length, accepted, 0.0)
        if by_draft is not None and added:
            self._average(self._added, length, added, added)
            gained, initial = max(0, accepted - by_draft), _INITIAL_GAIN * self._price * added
            self._average(self._gained, length, gained, initial)

    def _average(self, table: dict[int, float], key: int, value: float, initial: float) -> None:
        before = table.get(key, initial)
        table[key] = before + self._rate * (value - before)


class NgramDrafter(PasslessDrafter):
    """Proposes continuations of earlier occurrences of the last tokens.

    Args:
        options: of the lookup.
        prompt: the prompt's ids, with `NO_TOKEN` for those that are not text.
        limit: most nodes of a tree, whatever ``options`` says.
    """

    def __init__(self, options: Ngram, prompt: Iterable[int], limit: int) -> None:
        self._o = replace(options, nodes=min(options.nodes, limit))
        self._index = NgramIndex(self._o)
        self._index.extend(prompt)

    def start(self, first: int) -> None:
        self._index.extend([first])

    def find(self, sequence: TokenSequence) -> Match:
        """A tree of continuations of ``sequence``."""
        return self._index.find(min(self._o.length, sequence.remaining - 1), self._o.nodes)

    def draft(self, planner: TreePlanner, sequence: TokenSequence) -> Proposal:
        return self.proposal(self.find(sequence))

    def proposal(self, match: Match) -> Proposal:
        """A match as a proposal."""
        width = float(len(match.tree.children(ROOT)))
        note = f"the last {match.length} tokens stood before" if match.length else "no match"
        return Proposal(match.tree, Shape(match.tree.depth, width, None, note))

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        self._index.extend(outcome.tokens)


class HybridDrafter(Drafter):
    """A draft's tree, with branches of a lookup where these pay.

    Where lookups alone suffice, no draft passes are made.

    Args:
        drafter: drafts with a model.
        lookup: finds matches in the same text.
        gains: of lookups; updated here.
    """

    def __init__(self, drafter: Drafter, lookup: NgramDrafter, gains: LookupGains) -> None:
        self._drafter = drafter
        self._lookup = lookup
        self._gains = gains
        self.needs_features = drafter.needs_features
        self._latest: tuple[Match, TokenTree | None, int] | None = None
        """Of the current step: the match, the draft's own tree (None: it did not draft), and the
        number of nodes that the match adds to it."""

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
        if len(match.tree) and self._gains.suffices(match.length):
            self._latest = match, None, 0
            return replace(self._lookup.proposal(match), plan_seconds=seconds)
        proposal = yield from self._drafter.propose(planner, sequence)
        begun = perf_counter()
        whole = graft(proposal.tree, match.tree)
        added = len(whole) - len(proposal.tree)
        self._latest = match, proposal.tree, added
        if added and self._gains.pays(match.length):
            note = f"{proposal.shape.note}; {added} nodes looked up".removeprefix("; ")
            proposal = replace(proposal, tree=whole, shape=replace(proposal.shape, note=note))
        seconds += perf_counter() - begun
        return replace(proposal, plan_seconds=proposal.plan_seconds + seconds)

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        # The draft's own nodes come first in the tree, with the indices that it knows them by.
        self._drafter.observe(tree, outcome, hidden)
        self._lookup.observe(tree, outcome, hidden)
        if self._latest is None:  # the tree was forced by a grammar
            return
        match, own, added = self._latest
        self._latest = None
        by_draft = None if own is None else sum(node < len(own) for node in outcome.nodes)
        self._gains.update(match.length, added, _depth(match.tree, outcome.tokens), by_draft)


def _depth(tree: TokenTree, tokens: tuple[int, ...]) -> int:
    """The length of the longest prefix of ``tokens`` that is a path of ``tree``."""
    node = ROOT
    for depth, token in enumerate(tokens):
        child = tree.child(node, token)
        if child is None:
            return depth
        node = child
    return len(tokens)

"""Drafts without a model: what followed the last words when they stood in the text before."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sage_core.errors import OptionError
from sage_core.trees.option_specs import parse_options, spec_text
from sage_core.trees.tree import ROOT, TokenTree

__all__ = ["BREAK", "NAME", "Match", "Ngram", "NgramIndex", "as_ngram", "is_lookup"]

NAME = "ngram"
BREAK = -1
"""Stands for a token that is no text, a picture's for instance: nothing is matched across it."""
_RECENT = 16
"""Occurrences of one n-gram that are looked at, the latest: a step's work is bounded."""
_BASE = 4.0
_ELSE = 16.0
"""A match of n tokens weighs _BASE^n, and that the text goes on in a new way weighs this much."""


@dataclass(frozen=True)
class Ngram:
    """Options of drafting by lookup (after prompt lookup decoding), written ``ngram:nodes=16``.

    The last ``longest`` to ``shortest`` tokens are looked up in the prompt and the text so far.
    What followed them there becomes branches of a tree: up to ``branches`` at each node, ``length``
    levels and ``nodes`` nodes, the likeliest first; nodes below ``least`` are left out. Beside a
    draft model, the branches join its tree while they earn ``price`` tokens a node.

    Raises:
        OptionError: a value that makes no sense.
    """

    longest: int = 5
    shortest: int = 1
    branches: int = 4
    length: int = 16
    nodes: int = 32
    least: float = 0.05
    price: float = 0.05

    def __post_init__(self) -> None:
        for name in ("shortest", "branches", "length", "nodes"):
            if getattr(self, name) < 1:
                raise OptionError(f"ngram: {name} must be at least 1, not {getattr(self, name)}")
        if not self.shortest <= self.longest <= 32:
            raise OptionError("ngram: needs shortest <= longest <= 32")
        if not 0 < self.least <= 1:
            raise OptionError(f"ngram: least must be above 0 and at most 1, not {self.least}")
        if not 0 <= self.price < float("inf"):
            raise OptionError(f"ngram: price must be a number of at least 0, not {self.price}")

    def __str__(self) -> str:
        return spec_text(NAME, self)


def is_lookup(draft: object) -> bool:
    """Whether ``draft`` is drafting by lookup: ``ngram``, perhaps with options, or an `Ngram`."""
    named = isinstance(draft, str) and draft.partition(":")[0] == NAME
    return named or isinstance(draft, Ngram)


def as_ngram(text: str | Ngram) -> Ngram:
    """Options from ``ngram`` or ``ngram:option=value,...``; an `Ngram` passes through.

    Raises:
        OptionError: an unknown option, or a value of the wrong kind.
    """
    if isinstance(text, Ngram):
        return text
    return parse_options(Ngram, text.partition(":")[2], NAME)


@dataclass(frozen=True)
class Match:
    """What a lookup gave: a tree, and how many tokens its longest match has (0: no match)."""

    tree: TokenTree = field(default_factory=TokenTree)
    match: int = 0


class NgramIndex:
    """A text with all its n-grams, kept up to date in constant time a token."""

    def __init__(self, options: Ngram) -> None:
        self._o = options
        self._tokens: list[int] = []
        self._run = 0
        """Tokens since the last break."""
        self._ends: dict[tuple[int, ...], list[int]] = {}
        """Positions behind each occurrence of an n-gram, ascending."""

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens; `BREAK` stands for those that are no text."""
        o = self._o
        for token in tokens:
            self._tokens.append(token)
            self._run = self._run + 1 if token != BREAK else 0
            end = len(self._tokens)
            for n in range(o.shortest, min(o.longest, self._run) + 1):
                self._ends.setdefault(tuple(self._tokens[end - n :]), []).append(end)

    def matches(self) -> list[tuple[int, int]]:
        """(tokens matched, position behind the match): longest first, then latest first.

        Each earlier position once, with its longest match.
        """
        end = len(self._tokens)
        found: dict[int, int] = {}
        for n in range(min(self._o.longest, self._run), self._o.shortest - 1, -1):
            for place in reversed(self._ends[tuple(self._tokens[end - n :])][-_RECENT - 1 :]):
                if place < end:
                    found.setdefault(place, n)
        return [(n, place) for place, n in found.items()]

    def find(self, depth: int, nodes: int) -> Match:
        """The continuations of all matches as one tree of at most ``depth`` levels."""
        matches = self.matches()
        if not matches or depth < 1:
            return Match()
        trie = _Trie()
        for order, (n, place) in enumerate(matches):
            # Of equal matches the latest counts for most, and twice the same counts double.
            weight = _BASE**n * (1 + 1 / (1 + order))
            trie.add(self._tokens[place : place + depth], weight)
        return Match(trie.best(self._o.branches, nodes, self._o.least), matches[0][0])


class _Trie:
    """Continuations with weights, merged where they begin alike."""

    def __init__(self) -> None:
        self._children: list[dict[int, int]] = [{}]
        self._weights = [0.0]

    def add(self, tokens: Sequence[int], weight: float) -> None:
        """One continuation, up to its first break."""
        node = 0
        for token in tokens:
            if token == BREAK:
                return
            child = self._children[node].setdefault(token, len(self._weights))
            if child == len(self._weights):
                self._children.append({})
                self._weights.append(0.0)
            self._weights[child] += weight
            node = child

    def best(self, branches: int, nodes: int, least: float) -> TokenTree:
        """The likeliest nodes, a parent before its children.

        A token's probability is its share of the weight of its siblings and of something new.
        """
        tokens: list[int] = []
        parents: list[int] = []
        probs: list[float] = []
        ranks: list[int] = []
        # (-cumulative, node of the trie, token, parent in the tree, probability, rank); of equals
        # the node that was there first
        heap: list[tuple[float, int, int, int, float, int]] = []

        def push(node: int, place: int, above: float) -> None:
            children = self._children[node].items()
            total = sum(self._weights[child] for _, child in children) + _ELSE
            ranked = sorted(children, key=lambda item: -self._weights[item[1]])
            for rank, (token, child) in enumerate(ranked[:branches]):
                prob = self._weights[child] / total
                if above * prob >= least:
                    heapq.heappush(heap, (-above * prob, child, token, place, prob, rank))

        push(0, ROOT, 1.0)
        while heap and len(tokens) < nodes:
            negative, child, token, parent, prob, rank = heapq.heappop(heap)
            tokens.append(token)
            parents.append(parent)
            probs.append(prob)
            ranks.append(rank)
            push(child, len(tokens) - 1, -negative)
        return TokenTree(tuple(tokens), tuple(parents), tuple(probs), tuple(ranks))

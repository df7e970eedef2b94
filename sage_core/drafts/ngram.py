"""N-gram lookup (prompt lookup decoding): drafts from earlier occurrences of the last tokens."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sage_core.errors import OptionError
from sage_core.trees.option_specs import parse_options, spec_text
from sage_core.trees.tree import ROOT, TokenTree

__all__ = ["NAME", "NO_TOKEN", "Match", "Ngram", "NgramIndex", "as_ngram", "is_lookup"]

NAME = "ngram"
NO_TOKEN = -1
"""In place of ids that are not text, such as an image's: nothing is matched across it."""
_MAX_OCCURRENCES = 16
"""Latest occurrences of an n-gram that are used, which bounds the time of a step."""
_BASE = 4.0
"""A match of n tokens has weight _BASE^n."""
_NEW_WEIGHT = 16.0
"""Weight of a continuation that did not occur before."""


@dataclass(frozen=True)
class Ngram:
    """Options of n-gram lookup (after prompt lookup decoding), written ``ngram:nodes=16``.

    The last ``longest`` to ``shortest`` tokens are looked up in the prompt and the text so far.
    Their continuations there form a tree: up to ``branches`` children per node, ``length`` levels
    and ``nodes`` nodes, the most probable first; nodes of a cumulative probability below ``least``
    are left out. With a draft model, the branches are added to its tree while they gain at least
    ``price`` accepted tokens per node.

    Raises:
        OptionError: a value out of its range.
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
    """Whether ``draft`` is ``ngram``, perhaps with options, or an `Ngram`."""
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
    """The result of a lookup: a tree, and the length in tokens of its longest match (0: none)."""

    tree: TokenTree = field(default_factory=TokenTree)
    length: int = 0


class NgramIndex:
    """An index of a text's n-grams, updated in constant time per token."""

    def __init__(self, options: Ngram) -> None:
        self._o = options
        self._tokens: list[int] = []
        self._run = 0
        """Tokens since the last `NO_TOKEN`."""
        self._ends: dict[tuple[int, ...], list[int]] = {}
        """Positions after each occurrence of an n-gram, ascending."""

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens, with `NO_TOKEN` for ids that are not text."""
        o = self._o
        for token in tokens:
            self._tokens.append(token)
            self._run = self._run + 1 if token != NO_TOKEN else 0
            end = len(self._tokens)
            for n in range(o.shortest, min(o.longest, self._run) + 1):
                self._ends.setdefault(tuple(self._tokens[end - n :]), []).append(end)

    def matches(self) -> list[tuple[int, int]]:
        """(length of the match, position after it), longest first, then latest first.

        Each position is listed once, with its longest match.
        """
        end = len(self._tokens)
        found: dict[int, int] = {}
        for n in range(min(self._o.longest, self._run), self._o.shortest - 1, -1):
            for place in reversed(
                self._ends[tuple(self._tokens[end - n :])][-_MAX_OCCURRENCES - 1 :]
            ):
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
            # Of equally long matches the latest has the largest weight; equal ones add up.
            weight = _BASE**n * (1 + 1 / (1 + order))
            trie.add(self._tokens[place : place + depth], weight)
        return Match(trie.best(self._o.branches, nodes, self._o.least), matches[0][0])


class _Trie:
    """Weighted continuations, merged by common prefixes."""

    def __init__(self) -> None:
        self._children: list[dict[int, int]] = [{}]
        self._weights = [0.0]

    def add(self, tokens: Sequence[int], weight: float) -> None:
        """Add one continuation, up to its first `NO_TOKEN`."""
        node = 0
        for token in tokens:
            if token == NO_TOKEN:
                return
            child = self._children[node].setdefault(token, len(self._weights))
            if child == len(self._weights):
                self._children.append({})
                self._weights.append(0.0)
            self._weights[child] += weight
            node = child

    def best(self, branches: int, nodes: int, least: float) -> TokenTree:
        """The most probable nodes, parents before children.

        A token's probability is its weight over that of its siblings and `_NEW_WEIGHT`.
        """
        chosen: list[tuple[int, int, float, int]] = []  # token, parent, probability, rank
        # (-cumulative probability, node of the trie, token, parent in the tree, probability, rank);
        # among equals the earlier node of the trie comes first
        heap: list[tuple[float, int, int, int, float, int]] = []

        def push(node: int, parent: int, above: float) -> None:
            children = self._children[node].items()
            total = sum(self._weights[child] for _, child in children) + _NEW_WEIGHT
            ranked = sorted(children, key=lambda item: -self._weights[item[1]])
            for rank, (token, child) in enumerate(ranked[:branches]):
                prob = self._weights[child] / total
                if above * prob >= least:
                    heapq.heappush(heap, (-above * prob, child, token, parent, prob, rank))

        push(0, ROOT, 1.0)
        while heap and len(chosen) < nodes:
            negative, child, token, parent, prob, rank = heapq.heappop(heap)
            chosen.append((token, parent, prob, rank))
            push(child, len(chosen) - 1, -negative)
        return TokenTree(*zip(*chosen, strict=True)) if chosen else TokenTree()

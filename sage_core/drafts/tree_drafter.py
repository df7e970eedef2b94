"""`TreeDrafter` grows a tree level by level under a policy's planner."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_core.drafts.drafter import Drafter
from sage_core.drafts.vocab.reduced_lm_head import ReducedHead
from sage_core.generation.candidates import Candidates, CandidateSelector, TopK
from sage_core.generation.sequence import TokenSequence
from sage_core.runtime.passes import Passes
from sage_core.runtime.tree_runner import TreeRunner
from sage_core.trees.policy import Growth, Level, TreePlanner
from sage_core.trees.steps import Proposal
from sage_core.trees.tree import ROOT, TokenTree, TreeBuilder


class TreeDrafter(Drafter):
    """Grows a tree level by level under a policy's planner; a subclass makes the passes.

    Its cache holds the committed text but for the pending tokens, which the next tree's first pass
    reads; the nodes passed in a step sit behind as tree columns until `observe`.

    Args:
        runner: runs the draft.
        vocab_size: the target's; where it differs from the draft's, tokens beyond the smaller
            one are never drafted.
    """

    def __init__(self, runner: TreeRunner, vocab_size: int) -> None:
        self._runner = runner
        self._vocab = vocab_size
        self._reduced: ReducedHead | None = None
        self.candidates: CandidateSelector = TopK()
        """How each node's candidates are chosen; the acceptance rule must match it."""
        self._columns: dict[int, int] = {}

    def use_reduced_lm_head(self, reduced: ReducedHead) -> None:
        """Score the tokens of ``reduced`` only. To be called before the first pass."""
        self._reduced = reduced
        self._runner.set_lm_head(reduced)

    @abstractmethod
    def rewind(self, lost: int, new: Sequence[int]) -> None:
        """Go on with another text: the one before less its last ``lost`` tokens, then ``new``.

        ``new`` is read by the next `prefill`.
        """

    @abstractmethod
    def time_pass(self, rows: int, branching: int) -> Passes[None]:
        """A pass over ``rows`` nodes with the ranking of their candidates, to measure its cost.

        It lengthens the text by a token, until `discard_timed`.
        """

    def discard_timed(self, passes: int) -> None:
        """Drop what so many calls of `time_pass` have left in the cache."""
        self._runner.truncate(passes)

    @abstractmethod
    def _read_pending(self) -> Passes[Tensor]:
        """Pass what was committed since the last tree; (1, vocabulary) logits after its last."""

    @abstractmethod
    def _pass(
        self, builder: TreeBuilder, frontier: Sequence[int], level: int, seen: np.ndarray
    ) -> Passes[Tensor]:
        """Pass nodes of one level, the root's children being level 0; (F, vocabulary) logits.

        ``seen``, bool (F, columns), is which tree columns, old and new, each node attends to.
        """

    def _acceptance_bias(self, rows: int) -> np.ndarray | None:
        """`Level.acceptance` of the ``rows`` nodes that were passed last, if the draft has it."""
        return None

    @property
    def visual_tokens(self) -> int | None:
        """How many columns stand for images; None: as many as its `DraftPrompt` keeps."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the draft is."""
        return self._runner.device

    @property
    def started(self) -> bool:
        return self._runner.committed > 0

    def propose(self, planner: TreePlanner, sequence: TokenSequence) -> Passes[Proposal]:
        begun = perf_counter()
        shape = planner.plan()
        planning = perf_counter() - begun
        limit = min(shape.depth, sequence.remaining - 1)
        if limit < 1:
            empty = TokenTree()
            return Proposal(empty, replace(shape, depth=0), 0, planning, planned=empty)

        builder = TreeBuilder()
        logits = yield from self._read_pending()
        frontier: Sequence[int] = [ROOT]
        passes = 1
        draws: dict[int, Tensor] = {}
        for depth in range(1, limit + 1):
            candidates = self._select(logits, builder, frontier, sequence, planner.branching)
            bias = self._acceptance_bias(len(frontier)) if planner.asks_acceptance else None
            begun = perf_counter()
            level = Level(depth, frontier, candidates.expected, builder, bias)
            growth = candidates.placed(planner.grow(level))
            planning += perf_counter() - begun
            if candidates.draft is not None:
                drawn = set(growth.parents.tolist())
                draws.update({frontier[row]: candidates.draft[row] for row in drawn})
            nodes = _add(builder, growth, frontier, candidates.tokens, candidates.probs)
            # Nothing follows an end token, and processors may not be defined there.
            frontier = [
                node
                for node, expand in zip(nodes, growth.expand, strict=True)
                if expand and not sequence.ends_with(builder.tokens[node])
            ]
            if not frontier or depth == limit:
                break
            seen = self._see(builder, frontier)
            logits = yield from self._pass(builder, frontier, depth - 1, seen)
            passes += 1

        begun = perf_counter()
        drafted = builder.freeze()
        tree = planner.prune(drafted)
        if tree is not drafted:
            self._renumber(drafted, tree)
        planning += perf_counter() - begun
        return Proposal(tree, shape, passes, planning, draws, planned=tree)

    def _select(
        self,
        logits: Tensor,
        builder: TreeBuilder,
        frontier: Sequence[int],
        sequence: TokenSequence,
        k: int,
    ) -> Candidates:
        """Up to k candidates below each frontier node, given (F, vocabulary or fewer) logits."""
        reduced = self._reduced
        if reduced is None:
            return self.candidates.select(self._scored(logits, builder, frontier, sequence), k)
        if not sequence.has_processors:
            return reduced.named(self.candidates.select(logits.float(), k), self._vocab)
        whole = reduced.spread(logits, self._vocab)
        scores = self._scored(whole, builder, frontier, sequence)
        # A rule may do sums with the scores of tokens that the draft does not score.
        return self.candidates.select(scores.masked_fill(scores.isnan(), -torch.inf), k)

    @torch.inference_mode()
    def _scored(
        self, logits: Tensor, builder: TreeBuilder, frontier: Sequence[int], sequence: TokenSequence
    ) -> Tensor:
        """(F, vocabulary) scores, by the same processors that the target's scores go through."""
        if logits.shape[1] > self._vocab:
            logits = logits[:, : self._vocab]
        if not sequence.has_processors:
            return logits.float()
        if logits.shape[1] < self._vocab:
            missing = self._vocab - logits.shape[1]
            logits = torch.nn.functional.pad(logits.float(), (0, missing), value=-torch.inf)
        paths = [_tokens_to(builder, node) for node in frontier]
        return sequence.draft_scores(logits, paths)

    def _see(self, builder: TreeBuilder, frontier: Sequence[int]) -> np.ndarray:
        """Which passed columns, and itself, each new node sees: bool (F, old columns + F)."""
        old = len(self._columns)
        new = np.zeros((len(frontier), old + len(frontier)), dtype=bool)
        for row, node in enumerate(frontier):
            up = builder.parents[node]
            while up != ROOT:
                new[row, self._columns[up]] = True
                up = builder.parents[up]
            new[row, old + row] = True
        for row, node in enumerate(frontier):
            self._columns[node] = old + row
        return new

    def _renumber(self, drafted: TokenTree, tree: TokenTree) -> None:
        """Follow a pruning: columns belong to the nodes of the tree that is verified."""
        old_of = {path: node for node, path in enumerate(_token_paths(drafted))}
        columns = {}
        for node, path in enumerate(_token_paths(tree)):
            if old_of[path] in self._columns:
                columns[node] = self._columns[old_of[path]]
        self._columns = columns


def _add(
    builder: TreeBuilder,
    growth: Growth,
    frontier: Sequence[int],
    tokens: np.ndarray,
    probs: np.ndarray,
) -> range:
    # A level has one or two rows as a rule: lists are faster than arrays there.
    rows, ranks = growth.parents.tolist(), growth.ranks.tolist()
    all_tokens, all_probs = tokens.tolist(), probs.tolist()
    return builder.add(
        [frontier[row] for row in rows],
        [all_tokens[row][rank] for row, rank in zip(rows, ranks, strict=True)],
        [all_probs[row][rank] for row, rank in zip(rows, ranks, strict=True)],
        ranks,
    )


def _tokens_to(builder: TreeBuilder, node: int) -> list[int]:
    path: list[int] = []
    while node != ROOT:
        path.append(builder.tokens[node])
        node = builder.parents[node]
    return path[::-1]


def _token_paths(tree: TokenTree) -> list[tuple[Any, ...]]:
    paths: list[tuple[Any, ...]] = []
    for parent, token in zip(tree.parents, tree.tokens, strict=True):
        paths.append((*(paths[parent] if parent != ROOT else ()), token))
    return paths

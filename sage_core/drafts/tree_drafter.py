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

MAX_LEVELS = 1 << 30


class TreeDrafter(Drafter):
    """Grows a tree level by level under a policy's planner; a subclass makes the passes.

    The cache holds the committed text except the pending tokens, which the next tree's first pass
    reads. Nodes passed in a step follow as tree columns until `observe`.

    Args:
        runner: runs the draft.
        vocab_size: the target's; tokens beyond the smaller of both vocabularies are not drafted.
    """

    def __init__(self, runner: TreeRunner, vocab_size: int) -> None:
        self._runner = runner
        self._vocab = vocab_size
        self._reduced: ReducedHead | None = None
        self.candidates: CandidateSelector = TopK()
        """How each node's candidates are chosen; the acceptance rule must match it."""
        self._columns: dict[int, int] = {}
        """The tree column of each node that has been passed."""

    def use_reduced_lm_head(self, reduced: ReducedHead) -> None:
        """Compute logits of the tokens of ``reduced`` only. Call it before the first pass."""
        self._reduced = reduced
        self._runner.set_lm_head(reduced)

    @abstractmethod
    def rewind(self, lost: int, new: Sequence[int]) -> None:
        """Drop the last ``lost`` tokens of the text and append ``new``, for the next `prefill`."""

    def lost_with(self, lost: int) -> int:
        """Further tokens of the text that go when ``lost`` are dropped: a draft's state does not go
        back to every token. They are appended again by `rewind`."""
        return 0

    @abstractmethod
    def time_pass(self, nodes: int, branching: int, depth: int) -> Passes[None]:
        """Make a pass over ``nodes`` nodes at ``depth`` and rank their candidates, for timing.

        It appends a token to the cache, until `discard_timed`.
        """

    def discard_timed(self, passes: int) -> None:
        """Drop the tokens of so many calls of `time_pass` from the cache."""
        self._runner.truncate(passes)

    @abstractmethod
    def _read_pending(self) -> Passes[Tensor]:
        """Pass the pending tokens; returns (1, vocabulary) logits after the last."""

    @abstractmethod
    def _pass(
        self, builder: TreeBuilder, frontier: Sequence[int], level: int, seen: np.ndarray
    ) -> Passes[Tensor]:
        """Pass the F nodes of ``frontier``; returns (F, vocabulary) logits.

        Args:
            builder: the tree so far.
            frontier: nodes of one level.
            level: 0 for the root's children.
            seen: bool (F, columns), the tree columns, old and new, that each node attends to.
        """

    def _levels_left(self) -> int:
        """The most levels whose positions the draft has."""
        return MAX_LEVELS

    def _acceptance_bias(self, nodes: int) -> np.ndarray | None:
        """`Level.acceptance` of the nodes passed last; None without an acceptance predictor."""
        return None

    @property
    def visual_tokens(self) -> int | None:
        """Visual inputs that the draft has read; None: as many as its `DraftPrompt` keeps."""
        return None

    @property
    def device(self) -> torch.device:
        """The draft's device."""
        return self._runner.device

    @property
    def started(self) -> bool:
        return self._runner.committed > 0

    def propose(self, planner: TreePlanner, sequence: TokenSequence) -> Passes[Proposal]:
        begun = perf_counter()
        shape = planner.plan()
        planning = perf_counter() - begun
        limit = min(shape.depth, sequence.remaining - 1, self._levels_left())
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
                parents = set(growth.parents.tolist())
                draws.update({frontier[i]: candidates.draft[i] for i in parents})
            nodes = _add(builder, growth, frontier, candidates.tokens, candidates.probs)
            # Nothing follows an end token, and processors may not be defined there.
            frontier = [
                node
                for node, expand in zip(nodes, growth.expand, strict=True)
                if expand and not sequence.ends_with(builder.tokens[node])
            ]
            if not frontier or depth == limit:
                break
            seen = self._visibility(builder, frontier)
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
        """Up to k candidates below each frontier node, from (F, vocabulary or fewer) logits."""
        reduced = self._reduced
        if reduced is None:
            return self.candidates.select(self._scores(logits, builder, frontier, sequence), k)
        if not sequence.has_processors:
            return reduced.to_token_ids(self.candidates.select(logits.float(), k), self._vocab)
        whole = reduced.scatter_logits(logits, self._vocab)
        scores = self._scores(whole, builder, frontier, sequence)
        # A processor may compute with the scores of -inf of the other tokens.
        return self.candidates.select(scores.masked_fill(scores.isnan(), -torch.inf), k)

    @torch.inference_mode()
    def _scores(
        self, logits: Tensor, builder: TreeBuilder, frontier: Sequence[int], sequence: TokenSequence
    ) -> Tensor:
        """(F, vocabulary) scores, by the logits processors of the target's scores."""
        if logits.shape[1] > self._vocab:
            logits = logits[:, : self._vocab]
        if not sequence.has_processors:
            return logits.float()
        if logits.shape[1] < self._vocab:
            missing = self._vocab - logits.shape[1]
            logits = torch.nn.functional.pad(logits.float(), (0, missing), value=-torch.inf)
        paths = [_tokens_to(builder, node) for node in frontier]
        return sequence.draft_scores(logits, paths)

    def _visibility(self, builder: TreeBuilder, frontier: Sequence[int]) -> np.ndarray:
        """Give each node a column; bool (F, columns), its ancestors' columns and its own."""
        old = len(self._columns)
        self._columns.update({node: old + i for i, node in enumerate(frontier)})
        visible = np.zeros((len(frontier), len(self._columns)), dtype=bool)
        for i, node in enumerate(frontier):
            while node != ROOT:
                visible[i, self._columns[node]] = True
                node = builder.parents[node]
        return visible

    def _renumber(self, drafted: TokenTree, tree: TokenTree) -> None:
        """Number the columns by the nodes of ``tree``, which is ``drafted`` pruned."""
        old_of = {path: node for node, path in enumerate(_token_paths(drafted))}
        self._columns = {
            node: self._columns[old_of[path]]
            for node, path in enumerate(_token_paths(tree))
            if old_of[path] in self._columns
        }


def _add(
    builder: TreeBuilder,
    growth: Growth,
    frontier: Sequence[int],
    tokens: np.ndarray,
    probs: np.ndarray,
) -> range:
    # Most levels have one or two nodes: lists are faster than arrays.
    parents, ranks = growth.parents.tolist(), growth.ranks.tolist()
    all_tokens, all_probs = tokens.tolist(), probs.tolist()
    return builder.add(
        [frontier[parent] for parent in parents],
        [all_tokens[parent][rank] for parent, rank in zip(parents, ranks, strict=True)],
        [all_probs[parent][rank] for parent, rank in zip(parents, ranks, strict=True)],
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

"""Drafting with a small transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from sage_core.drafts.pruning.draft_prompt import DraftPrompt
from sage_core.drafts.tree_drafter import MAX_LEVELS, TreeDrafter
from sage_core.generation.candidates import TopK
from sage_core.generation.prepare import prepare_draft
from sage_core.models.inputs import on_device
from sage_core.models.shared_vision import SharedVision
from sage_core.runtime.passes import Passes
from sage_core.runtime.runner import PromptOutputs, Runner
from sage_core.runtime.tree_runner import PassRequest
from sage_core.trees.steps import Acceptance
from sage_core.trees.tree import TokenTree, TreeBuilder


class ModelDrafter(TreeDrafter):
    """Drafts with a draft model. Accepted nodes that it has passed stay in its cache.

    Args:
        runner: runs the draft model.
        inputs: the prompt, as the processor returned it.
        vocab_size: the target's.
        room: cache slots to reserve after the prompt.
        vision: outputs of the target's vision tower, if the draft shares it.
        draft_prompt: which tokens of the prompt the draft reads.
        context: positions that the draft has; None: any number.
    """

    _runner: Runner

    def __init__(
        self,
        runner: Runner,
        inputs: dict[str, Any],
        vocab_size: int,
        room: int,
        vision: SharedVision,
        draft_prompt: DraftPrompt,
        context: int | None = None,
    ) -> None:
        super().__init__(runner, vocab_size)
        self._inputs = inputs
        self._room = room
        self._vision = vision
        self._draft_prompt = draft_prompt
        self._context = context or MAX_LEVELS
        self._pending: list[int] = []

    def prefill(self, first: int, prompt: PromptOutputs) -> Passes[None]:
        if self.started:
            yield from self._read_pending()
        elif self._inputs["input_ids"].shape[1] <= self._context:
            inputs = on_device(self._inputs, self._runner.device)
            with self._vision.replaying():
                prepared = prepare_draft(self._runner.model, inputs)
                self._runner.prefill(prepared, self._room, self._draft_prompt.positions())
        self._pending = [first]

    def _levels_left(self) -> int:
        if self._context == MAX_LEVELS:
            return MAX_LEVELS
        if not self.started:  # the prompt is longer than the draft's context
            return 0
        next_position = self._runner.next_position + len(self._pending)
        return self._context - next_position + 1 if next_position <= self._context else 0

    @property
    def length(self) -> int:
        """Tokens in the cache or pending; pruned ones are not counted."""
        return self._runner.committed + len(self._pending)

    def lost_with(self, lost: int) -> int:
        cached = max(0, lost - len(self._pending))
        left = self._runner.restorable(cached)
        return self._runner.committed - cached - left if left else self.length - lost

    def rewind(self, lost: int, new: Sequence[int]) -> None:
        unread = len(self._pending)
        self._runner.truncate(max(0, lost - unread))
        self._pending = [*self._pending[: max(0, unread - lost)], *new]
        self._columns = {}

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        if not self.started:
            return
        # Ancestors are passed before their children: the passed nodes are a prefix of the path.
        kept = [self._columns[node] for node in outcome.nodes if node in self._columns]
        self._runner.commit(kept)
        self._pending += outcome.tokens[len(kept) :]
        self._columns = {}

    def time_pass(self, nodes: int, branching: int, depth: int) -> Passes[None]:
        tokens, depths = [0] * nodes, [depth] * nodes
        logits, _ = yield PassRequest(self._runner, tokens, depths, np.eye(nodes, dtype=bool))
        TopK().select(logits.float(), branching)
        self._runner.commit([0])

    def _read_pending(self) -> Passes[Tensor]:
        # A token beyond the draft's vocabulary is read as its last one: drafts after it get worse,
        # the output stays the same.
        known = [min(token, self._runner.vocab_size - 1) for token in self._pending]
        outputs = yield from self._runner.extend(known)
        self._pending = []
        self._columns = {}
        return outputs.logits

    def _pass(
        self, builder: TreeBuilder, frontier: Sequence[int], level: int, seen: np.ndarray
    ) -> Passes[Tensor]:
        tokens = [builder.tokens[node] for node in frontier]
        logits, _ = yield PassRequest(self._runner, tokens, [level] * len(frontier), seen)
        return logits

"""Drafting with a head on the target's features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_core.drafts.head.module import Head
from sage_core.drafts.head.runner import HeadRunner
from sage_core.drafts.pruning.draft_prompt import DraftPrompt
from sage_core.drafts.tree_drafter import TreeDrafter
from sage_core.generation.candidates import TopK
from sage_core.generation.prepare import Prepared
from sage_core.models.inputs import visual_mask
from sage_core.runtime.backend import Backend
from sage_core.runtime.passes import Passes
from sage_core.runtime.runner import EXTEND_TOKENS, PromptOutputs, Runner
from sage_core.runtime.tree_runner import PassRequest
from sage_core.trees.steps import Acceptance
from sage_core.trees.tree import ROOT, TokenTree, TreeBuilder


class HeadDrafter(TreeDrafter):
    """Drafts with a head on the target's features, as EAGLE does.

    Committed tokens are read with the target's features, nodes of the tree with the features that
    the head predicted for their parents. So tree columns are never kept: accepted nodes are read
    again, which costs one layer.

    Args:
        head: on the device and in the dtype of the target's output head.
        target: the runner of its target.
        prepared: the prompt.
        room: cache slots to reserve after it.
        draft_prompt: which of its tokens the head reads.
        backend: makes the executor of the head's passes.
    """

    _runner: HeadRunner
    needs_features = True

    def __init__(
        self,
        head: Head,
        target: Runner,
        prepared: Prepared,
        room: int,
        draft_prompt: DraftPrompt,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(HeadRunner(head, target.model, backend), target.vocab_size)
        self._head = head
        self._predictor = head.acceptance_predictor()
        self._config: Any = target.model.config
        self._prepared: Prepared | None = prepared
        self._room = room
        self._draft_prompt = draft_prompt
        self._visual_tokens = 0
        self._pending: list[int] = []
        self._features: list[Tensor] = []
        """(1, hidden) for each pending token, the target's feature before it."""
        self._cached: list[Tensor] = []
        """The same for each token after the prompt that is in the cache."""
        self._before: Tensor | None = None
        """The feature before the first awaiting token, if it is known."""
        self._awaiting: list[int] = []
        """Tokens after the pending ones, which the target reads next."""
        self._predicted = torch.empty(0)
        """(1 + columns, hidden) predicted features of the root and of each column."""

    @property
    def started(self) -> bool:
        return self._prepared is None

    @property
    def visual_tokens(self) -> int:
        return self._visual_tokens

    def prefill(self, first: int, prompt: PromptOutputs) -> Passes[None]:
        assert prompt.features is not None
        self._awaiting.append(first)
        if self._prepared is not None:
            self._read_prompt(prompt, self._prepared)
            self._prepared = None
            self._assign_features(prompt.features[0, -1:])
        else:
            self._assign_features(prompt.features[0])
        return
        yield  # a generator without passes: the prompt is one call of one layer

    @torch.inference_mode()
    def _read_prompt(self, prompt: PromptOutputs, prepared: Prepared) -> None:
        """Read all tokens but the first, which has no feature before it."""
        n = prepared.prompt_tokens
        kept = self._draft_prompt.positions()
        kept = np.arange(n) if kept is None else kept
        at = torch.from_numpy(kept[kept > 0])
        head_prompt = None
        if len(at):
            assert prompt.features is not None
            assert prompt.embeds is not None and prompt.positions is not None
            device, dtype = self._head.device, self._head.dtype
            features = prompt.features[:, (at - 1).to(prompt.features.device)].to(device, dtype)
            embeds = prompt.embeds[:, at.to(prompt.embeds.device)].to(device, dtype)
            positions = prompt.positions[..., at.to(prompt.positions.device)]
            visual = visual_mask(self._config, prepared.input_ids[0].cpu()[at])
            head_prompt = self._head.build_prompt(
                features, embeds, visual.to(device), positions.to(device)
            )
            self._visual_tokens = head_prompt.visual_inputs
        self._runner.prefill(head_prompt, n + prepared.position_offset, self._room)

    def rewind(self, lost: int, new: Sequence[int]) -> None:
        unread = len(self._pending)
        features = self._cached + self._features
        kept = len(features) - lost
        if lost and kept >= 0:
            # The first lost token and the first new one follow the same text.
            self._before = features[kept]
        self._runner.truncate(max(0, lost - unread))
        self._cached = self._cached[: max(0, min(len(self._cached), kept))]
        left = max(0, unread - lost)
        self._pending, self._features = self._pending[:left], self._features[:left]
        self._awaiting += new
        self._columns = {}

    def _assign_features(self, features: Tensor) -> None:
        """Give each awaiting token the target's feature before it, from (n, hidden) ``features``.

        If a text differs from the previous one within the prompt, the feature before its first new
        token is lost: the one after it is used instead.
        """
        features = features.to(self._head.device, self._head.dtype)
        wanted = len(self._awaiting)
        if wanted > len(features):  # by one: the target has that token in its cache
            first = features[:1] if self._before is None else self._before
            features = torch.cat([first, features])
        self._pending += self._awaiting
        self._features += list(features[len(features) - wanted :].split(1))
        self._awaiting, self._before = [], None

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        self._runner.commit(())
        self._columns = {}
        before = [0, *(node + 1 for node in outcome.nodes)][: len(outcome.tokens)]
        features = hidden[before].to(self._head.device, self._head.dtype)
        self._pending += outcome.tokens
        self._features += list(features.split(1))

    def time_pass(self, nodes: int, branching: int, depth: int) -> Passes[None]:
        tokens, depths = [0] * nodes, [depth] * nodes
        size = self._head.config.hidden_size
        features = torch.zeros((nodes, size), device=self.device, dtype=self._head.dtype)
        logits, _ = yield PassRequest(
            self._runner, tokens, depths, np.eye(nodes, dtype=bool), 0, features
        )
        TopK().select(logits.float(), branching)
        self._runner.commit([0])

    def _acceptance_bias(self, nodes: int) -> np.ndarray | None:
        if self._predictor is None:
            return None
        # For one or two nodes numpy takes half the time of a module.
        weight, bias = self._predictor
        odds: np.ndarray = self._predicted[-nodes:].float().cpu().numpy() @ weight + bias
        return odds

    def _read_pending(self) -> Passes[Tensor]:
        logits = torch.empty(0)
        for start in range(0, len(self._pending), EXTEND_TOKENS):
            part = slice(start, start + EXTEND_TOKENS)
            tokens, features = self._pending[part], torch.cat(self._features[part])
            causal = np.tril(np.ones((len(tokens), len(tokens)), dtype=bool))
            logits, predicted = yield PassRequest(
                self._runner, tokens, range(len(tokens)), causal, 1, features
            )
            self._runner.commit(range(len(tokens)))
            self._predicted = predicted[-1:]
        self._cached += self._features
        self._pending, self._features, self._columns = [], [], {}
        return logits

    def _pass(
        self, builder: TreeBuilder, frontier: Sequence[int], level: int, seen: np.ndarray
    ) -> Passes[Tensor]:
        above = [builder.parents[node] for node in frontier]
        at = [0 if parent == ROOT else 1 + self._columns[parent] for parent in above]
        tokens = [builder.tokens[node] for node in frontier]
        # Views are faster than copies.
        features = self._predicted[at[0], None] if len(at) == 1 else self._predicted[at]
        depths = [level] * len(frontier)
        logits, predicted = yield PassRequest(self._runner, tokens, depths, seen, 0, features)
        self._predicted = torch.cat([self._predicted, predicted])
        return logits

"""Drafting with a head: each row is read with the feature before it, the target's or predicted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from sage_core.drafts.head.module import Head
from sage_core.drafts.head.prefill_hook import Heard, Listener
from sage_core.drafts.head.runner import HeadRunner
from sage_core.drafts.pruning.draft_prompt import DraftPrompt
from sage_core.drafts.tree_drafter import TreeDrafter
from sage_core.drafts.vocab.reduced_lm_head import ReducedHead
from sage_core.generation.candidates import TopK
from sage_core.generation.prepare import Prepared
from sage_core.models.visual_tokens import visual_mask
from sage_core.runtime.backend import MakeRunner, MakesHeads
from sage_core.runtime.runner import READ_TOKENS, Runner
from sage_core.trees.steps import Acceptance
from sage_core.trees.tree import ROOT, TokenTree, TreeBuilder


class HeadDrafter(TreeDrafter):
    """Drafts with a head on the target's own features.

    What is committed is read with the target's features, which its passes give anyway; a node of
    the tree with what the head predicted for its parent. So no column of a tree stays: accepted
    nodes are read again, a layer's work.

    Args:
        head: on the device and in the dtype of the target's output head.
        target: the runner of its target.
        prepared: the prompt.
        room: cache slots to reserve behind it.
        sight: what the head sees of it.
        reduced: what it scores by, if not by the target's whole output head.
        make: what makes the target's runner.
    """

    _runner: HeadRunner

    def __init__(
        self,
        head: Head,
        target: Runner,
        prepared: Prepared,
        room: int,
        sight: DraftPrompt,
        reduced: ReducedHead | None = None,
        make: MakeRunner | None = None,
    ) -> None:
        if isinstance(make, MakesHeads):
            runner: HeadRunner = make.for_head(head, target.model)
        else:
            runner = HeadRunner(head, target.model, make)
        super().__init__(runner, target.vocab_size, reduced)
        self._head = head
        self._predictor = head.acceptance_predictor()
        self._config = target.model.config
        self._prepared: Prepared | None = prepared
        self._room = room
        self._sight = sight
        self._listener = Listener()
        self._visual_tokens = 0
        self._pending: list[int] = []
        self._features: list[Tensor] = []
        """(1, size) for each token of ``pending``, the target's feature before it."""
        self._held: list[Tensor] = []
        """The same for each token behind the prompt that is in the cache."""
        self._before: Tensor | None = None
        """The feature before the first awaiting token, if it is known."""
        self._awaiting: list[int] = []
        """Tokens behind the pending ones, which the target is about to read."""
        self._predicted = torch.empty(0)
        """(1 + columns, size): predicted at the root, and at each column."""

    def listening(self, target: Runner) -> AbstractContextManager[None]:
        return self._listener.listening(target)

    @property
    def started(self) -> bool:
        return self._prepared is None

    @property
    def visual_tokens(self) -> int:
        return self._visual_tokens

    def prefill(self, first: int) -> None:
        self._awaiting.append(first)
        if self._prepared is None:
            self._settle()
            return
        heard, prepared = self._listener.prompt, self._prepared
        if heard is None:
            raise RuntimeError("the target has read no prompt while its head was listening")
        self._listener.prompt = None
        self._read_prompt(heard, prepared)
        self._listener.text.append(heard.features[0, -1:])
        self._prepared = None
        self._settle()

    @torch.inference_mode()
    def _read_prompt(self, heard: Heard, prepared: Prepared) -> None:
        """Rows for all tokens but the first, which has no feature before it."""
        n = prepared.prompt_tokens
        kept = self._sight.positions()
        kept = np.arange(n) if kept is None else kept
        at = torch.from_numpy(kept[kept > 0])
        reading = None
        if len(at):
            device, dtype = self._head.device, self._head.dtype
            features = heard.features[:, (at - 1).to(heard.features.device)].to(device, dtype)
            embeds = heard.embeds[:, at.to(heard.embeds.device)].to(device, dtype)
            positions = heard.positions[..., at.to(heard.positions.device)]
            visual = visual_mask(self._config, prepared.input_ids[0].cpu()[at])
            reading = self._head.build_prompt(
                features, embeds, visual.to(device), positions.to(device)
            )
            self._visual_tokens = reading.visual_rows
        self._runner.prefill(reading, n + prepared.position_offset, self._room)

    def rewind(self, lost: int, new: Sequence[int]) -> None:
        unread = len(self._pending)
        rows = self._held + self._features
        kept = len(rows) - lost
        if lost and kept >= 0:
            # The first token that is lost stood behind the same text as the first new one will.
            self._before = rows[kept]
        self._runner.truncate(max(0, lost - unread))
        self._held = self._held[: max(0, min(len(self._held), kept))]
        left = max(0, unread - lost)
        self._pending, self._features = self._pending[:left], self._features[:left]
        self._awaiting += new
        self._columns = {}
        if self._listener.text:  # the text has ended with what the target's prefill gave
            self._settle()

    def _settle(self) -> None:
        """Give each awaiting token the target's feature before it, of those that were heard.

        Where a text differs from the one before within its prompt, the feature before its first
        new token is not known any more: the one after it stands in.
        """
        heard = torch.cat(self._listener.text).to(self._head.device, self._head.dtype)
        self._listener.text.clear()
        wanted = len(self._awaiting)
        if wanted > len(heard):  # by one: the target has not read that token again
            first = heard[:1] if self._before is None else self._before
            heard = torch.cat([first, heard])
        self._pending += self._awaiting
        self._features += list(heard[len(heard) - wanted :].split(1))
        self._awaiting, self._before = [], None

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        self._runner.commit(())
        self._columns = {}
        before = [0, *(node + 1 for node in outcome.nodes)][: len(outcome.tokens)]
        rows = hidden[before].to(self._head.device, self._head.dtype)
        self._pending += outcome.tokens
        self._features += list(rows.split(1))

    def time_pass(self, rows: int, branching: int) -> None:
        nodes = [0] * rows
        nothing = torch.zeros((rows, self._runner.size), device=self.device, dtype=self._head.dtype)
        logits, _ = self._runner.forward(nothing, nodes, nodes, np.eye(rows, dtype=bool))
        TopK().select(logits.float(), branching)
        self._runner.commit([0])

    def discard_timed(self, passes: int) -> None:
        self._runner.truncate(passes)

    def _acceptance(self, rows: int) -> np.ndarray | None:
        if self._predictor is None:
            return None
        # For a row or two numpy takes half the time that a module does.
        weight, bias = self._predictor
        shift: np.ndarray = self._predicted[-rows:].float().cpu().numpy() @ weight + bias
        return shift

    def _read_pending(self) -> Tensor:
        logits = torch.empty(0)
        for start in range(0, len(self._pending), READ_TOKENS):
            part = slice(start, start + READ_TOKENS)
            tokens, features = self._pending[part], torch.cat(self._features[part])
            causal = np.tril(np.ones((len(tokens), len(tokens)), dtype=bool))
            logits, predicted = self._runner.forward(
                features, tokens, range(len(tokens)), causal, last=1
            )
            self._runner.commit(range(len(tokens)))
            self._predicted = predicted[-1:]
        self._held += self._features
        self._pending, self._features, self._columns = [], [], {}
        return logits

    def _pass(
        self, builder: TreeBuilder, frontier: Sequence[int], level: int, seen: np.ndarray
    ) -> Tensor:
        above = [builder.parents[node] for node in frontier]
        at = [0 if parent == ROOT else 1 + self._columns[parent] for parent in above]
        tokens = [builder.tokens[node] for node in frontier]
        # Views are faster than copies of rows.
        features = self._predicted[at[0], None] if len(at) == 1 else self._predicted[at]
        logits, predicted = self._runner.forward(features, tokens, [level] * len(frontier), seen)
        self._predicted = torch.cat([self._predicted, predicted])
        return logits

"""The decoding loop: prefill both models, then draft, verify, accept, commit, step after step."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import torch

from sage_core.drafts.drafter import Drafter
from sage_core.generation.acceptance import AcceptRule, accept_greedy
from sage_core.generation.prepare import Prepared
from sage_core.generation.sequence import TokenSequence
from sage_core.runtime.runner import Runner
from sage_core.trees.policy import TreePlanner
from sage_core.trees.steps import PhaseSeconds, Proposal, Step
from sage_core.trees.tree import TokenTree


def decode(
    target: Runner,
    prepared: Prepared,
    drafter: Drafter,
    planner: TreePlanner,
    text: TokenSequence,
    *,
    room: int,
    accept: AcceptRule = accept_greedy,
) -> Iterator[Step]:
    """Decode one text; yields a `Step` for the prefill and then one per verification.

    The target's cache holds the committed text but for its last token, the root of the next tree.
    Without a draft every tree is empty and this is autoregressive decoding.

    Args:
        target: the model whose output is reproduced.
        prepared: its prompt.
        drafter: proposes the trees.
        shaper: a policy's state for this text.
        text: where tokens are committed; it knows when the text ends.
        room: cache slots to reserve behind the prompt.
        accept: the acceptance rule.
    """
    step = _prefill(target, prepared, drafter, text, room, accept)
    yield step
    while not step.finished:
        step = _decode_step(step.index + 1, step.tokens[-1], target, drafter, planner, text, accept)
        yield step


def _prefill(
    target: Runner,
    prepared: Prepared,
    drafter: Drafter,
    text: TokenSequence,
    room: int,
    accept: AcceptRule,
) -> Step:
    """Read the prompt with both models; the target's own next token is the first of the text."""
    clock = _Clock(target)
    logits = target.extend(prepared.unread) if prepared.read else target.prefill(prepared, room)
    prefill_target = clock.lap()
    first = accept(Proposal(), logits, text).tokens
    accepting = clock.lap()
    if not text.finished:
        drafter.prefill(first[0])
    seconds = PhaseSeconds(prefill_target=prefill_target + accepting, prefill_draft=clock.lap())
    return Step(0, -1, TokenTree(), (), first, seconds=seconds, finished=text.finished)


def _decode_step(
    index: int,
    root: int,
    target: Runner,
    drafter: Drafter,
    planner: TreePlanner,
    text: TokenSequence,
    accept: AcceptRule,
) -> Step:
    """One step: draft a tree below ``root``, verify it in one pass, commit the longest match."""
    clock = _Clock(target)

    proposal = drafter.propose(planner, text)
    tree = proposal.tree
    drafting = clock.lap()

    logits, hidden = target.forward(  # rows: the root, then the nodes
        (root, *tree.tokens), (0, *tree.depths), tree.visibility
    )
    verifying = clock.lap()

    outcome = accept(proposal, logits, text)
    accepting = clock.lap()

    target.commit([0, *(node + 1 for node in outcome.nodes)])
    drafter.observe(tree, outcome, hidden)
    committing = clock.lap()

    planner.observe(tree, outcome.nodes, outcome.tokens)
    return Step(
        index=index,
        root=root,
        tree=tree,
        accepted=outcome.nodes,
        tokens=outcome.tokens,
        shape=proposal.shape,
        draft_passes=proposal.passes,
        seconds=PhaseSeconds(
            draft=drafting - proposal.plan_seconds,
            plan=proposal.plan_seconds + clock.lap(),
            verify=verifying,
            accept=accepting,
            commit=committing,
        ),
        finished=text.finished,
    )


class _Clock:
    """Splits a step's wall-clock seconds into laps that end when the device has finished."""

    def __init__(self, target: Runner) -> None:
        self._device = target.device
        self._last = perf_counter()

    def lap(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        before, self._last = self._last, perf_counter()
        return self._last - before

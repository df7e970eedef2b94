"""The decoding loop: prefill, then draft, verify, accept and commit in each step."""

from __future__ import annotations

from collections.abc import Generator
from time import perf_counter

import torch

from sage_core.drafts.drafter import Drafter
from sage_core.generation.acceptance import AcceptRule, accept_greedy
from sage_core.generation.prepare import Prepared
from sage_core.generation.sequence import TokenSequence
from sage_core.runtime.passes import Passes
from sage_core.runtime.runner import PromptOutputs, Runner
from sage_core.runtime.tree_runner import Outputs, PassRequest
from sage_core.trees.policy import TreePlanner
from sage_core.trees.steps import PhaseSeconds, Proposal, Step
from sage_core.trees.tree import TokenTree

Decoding = Generator[PassRequest | Step, Outputs | None, None]
"""Decoding of a text: yields the passes that it needs, and a `Step` when tokens are committed."""


def decode(
    target: Runner,
    prepared: Prepared,
    drafter: Drafter,
    planner: TreePlanner,
    sequence: TokenSequence,
    *,
    room: int,
    accept: AcceptRule = accept_greedy,
    phase_times: bool = False,
) -> Decoding:
    """Decode one text: a `Step` for the prefill, and then one per verification.

    The target's cache holds the committed text except its last token, the root of the next tree.
    Without a draft all trees are empty and this is autoregressive decoding.

    Args:
        target: the model whose output is reproduced.
        prepared: its prompt.
        drafter: proposes the trees.
        planner: a policy's state for this text.
        sequence: the committed tokens, with the stopping criteria.
        room: cache slots to reserve after the prompt.
        accept: the acceptance rule.
        phase_times: on CUDA, synchronize between the phases of a step. Without, a phase ends when
            its kernels have been launched.
    """
    clock = _Clock(target.device, phase_times)
    features = drafter.needs_features
    if prepared.read:
        prompt: PromptOutputs = yield from target.extend(prepared.unread, features=features)
    else:
        prompt = target.prefill(prepared, room, features=features)
    prefill_target = clock.lap()
    first = accept(Proposal(), prompt.logits, sequence).tokens
    accepting = clock.lap()
    if drafter.started or not sequence.finished:
        yield from drafter.prefill(first[0], prompt)
    seconds = PhaseSeconds(prefill_target=prefill_target + accepting, prefill_draft=clock.lap())
    step = Step(0, -1, TokenTree(), (), first, seconds=seconds, finished=sequence.finished)
    yield step
    while not step.finished:
        step = yield from _decode_step(step, clock, target, drafter, planner, sequence, accept)
        yield step


def _decode_step(
    previous: Step,
    clock: _Clock,
    target: Runner,
    drafter: Drafter,
    planner: TreePlanner,
    sequence: TokenSequence,
    accept: AcceptRule,
) -> Passes[Step]:
    """Draft a tree below the last token, verify it in one pass, commit the accepted path."""
    clock.restart()
    root = previous.tokens[-1]

    proposal = yield from drafter.propose(planner, sequence)
    tree = proposal.tree
    drafting = clock.lap()

    logits, hidden = yield PassRequest(  # (nodes + 1, vocabulary), (nodes + 1, hidden), root first
        target, (root, *tree.tokens), (0, *tree.depths), tree.visibility
    )
    verifying = clock.lap()

    outcome = accept(proposal, logits, sequence)
    accepting = clock.lap()

    target.commit([0, *(node + 1 for node in outcome.nodes)])
    drafter.observe(tree, outcome, hidden)
    committing = clock.lap()

    if proposal.planned is not None:
        path = tuple(node for node in outcome.nodes if node < len(proposal.planned))
        planner.observe(proposal.planned, path, outcome.tokens[: len(path) + 1])
    return Step(
        index=previous.index + 1,
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
        finished=sequence.finished,
    )


class _Clock:
    """Splits the wall-clock seconds of a step into laps, one per phase."""

    def __init__(self, device: torch.device, synchronize: bool) -> None:
        self._device = device if synchronize and device.type == "cuda" else None
        self.restart()

    def restart(self) -> None:
        """Start a lap."""
        if self._device is not None:
            torch.cuda.synchronize(self._device)
        self._last = perf_counter()

    def lap(self) -> float:
        """The seconds since the last lap; starts the next one."""
        before = self._last
        self.restart()
        return self._last - before

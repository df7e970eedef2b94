"""The decoding loop: prefill both models, then draft, verify, accept, commit, step after step."""

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
"""A text under way: yields the passes it needs, and a `Step` whenever tokens are committed."""


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

    The target's cache holds the committed text but for its last token, the root of the next tree.
    Without a draft every tree is empty and this is autoregressive decoding.

    Args:
        target: the model whose output is reproduced.
        prepared: its prompt.
        drafter: proposes the trees.
        planner: a policy's state for this text.
        sequence: where tokens are committed; it knows when the text ends.
        room: cache slots to reserve behind the prompt.
        accept: the acceptance rule.
        phase_times: on CUDA, wait for the device between the phases of a step, so that the seconds
            of each phase are its own. Without, a phase ends when its kernels have been launched.
    """
    clock = _Clock(target.device, phase_times)
    step = yield from _prefill(clock, target, prepared, drafter, sequence, room, accept)
    yield step
    while not step.finished:
        root = step.tokens[-1]
        step = yield from _decode_step(
            step.index + 1, root, clock, target, drafter, planner, sequence, accept
        )
        yield step


def _prefill(
    clock: _Clock,
    target: Runner,
    prepared: Prepared,
    drafter: Drafter,
    sequence: TokenSequence,
    room: int,
    accept: AcceptRule,
) -> Passes[Step]:
    """Read the prompt with both models; the target's own next token is the first of the text."""
    clock.restart()
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
    return Step(0, -1, TokenTree(), (), first, seconds=seconds, finished=sequence.finished)


def _decode_step(
    index: int,
    root: int,
    clock: _Clock,
    target: Runner,
    drafter: Drafter,
    planner: TreePlanner,
    sequence: TokenSequence,
    accept: AcceptRule,
) -> Passes[Step]:
    """One step: draft a tree below ``root``, verify it in one pass, commit the longest match."""
    clock.restart()

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
        finished=sequence.finished,
    )


class _Clock:
    """Splits the wall-clock seconds of a step into laps, one per phase."""

    def __init__(self, device: torch.device, wait: bool) -> None:
        self._device = device if wait and device.type == "cuda" else None
        self.restart()

    def restart(self) -> None:
        """Begin a lap."""
        if self._device is not None:
            torch.cuda.synchronize(self._device)
        self._last = perf_counter()

    def lap(self) -> float:
        """The seconds since the last lap ended."""
        before = self._last
        self.restart()
        return self._last - before

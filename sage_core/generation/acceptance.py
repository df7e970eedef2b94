"""Greedy acceptance, and the walk through a verified tree that all acceptance rules share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sage_core.generation.sequence import TokenSequence
from sage_core.trees.steps import Acceptance, Proposal
from sage_core.trees.tree import ROOT, TokenTree

AcceptRule = Callable[[Proposal, Tensor, TokenSequence], Acceptance]
"""Called with the proposal, the target's logits (nodes + 1, vocabulary) with the root first, and
the text. Appends the committed tokens to the text one by one and stops where the text ends.
`speculative_sampling` has the rules for sampling.
"""


@torch.inference_mode()
def accept_greedy(proposal: Proposal, logits: Tensor, text: TokenSequence) -> Acceptance:
    """The longest path that equals the target's greedy choices, plus its next choice.

    The choice at a node is the arg max of the scores given the node's path, so that processors such
    as a repetition penalty get the history they would get in `generate`. Only nodes on the accepted
    path are scored.
    """
    # Without processors all choices take one device-to-host copy.
    choices = None if text.needs_scores else logits.argmax(dim=-1).tolist()

    def choose(node: int) -> int:
        if choices is not None:
            return int(choices[node + 1])
        return int(text.scores(logits[node + 1 : node + 2]).argmax(dim=-1))

    return follow(proposal.tree, text, choose)


def follow(tree: TokenTree, text: TokenSequence, choose: Callable[[int], int]) -> Acceptance:
    """Walk from the root: commit the token chosen at each node, continue at the child that has it.

    Args:
        tree: the verified tree.
        text: where tokens are committed; it may end in the middle of the path.
        choose: the target's next token after a node (or `ROOT`); called only for nodes whose whole
            path is committed.
    """
    nodes: list[int] = []
    tokens: list[int] = []
    node: int | None = ROOT
    while node is not None:
        token = choose(node)
        tokens.append(token)
        ended = text.append(token)
        node = tree.child(node, token)
        if node is not None:
            nodes.append(node)
        if ended:
            break
    return Acceptance(tuple(nodes), tuple(tokens))

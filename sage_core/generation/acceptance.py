"""Acceptance rules: which path of a verified tree becomes text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sage_core.generation.sequence import TokenSequence
from sage_core.trees.steps import Acceptance
from sage_core.trees.tree import ROOT, TokenTree

if TYPE_CHECKING:
    from sage_core.trees.steps import Proposal


AcceptRule = Callable[["Proposal", Tensor, TokenSequence], Acceptance]
"""(proposal, logits (nodes + 1, vocabulary) with the root's row first, text) -> what was committed.

The rule appends to ``text`` what it commits, token by token, and stops where the text ends.
`sampling` has the rules that draw.
"""


@torch.inference_mode()
def accept_greedy(proposal: Proposal, logits: Tensor, text: TokenSequence) -> Acceptance:
    """The longest path that equals the target's own greedy choices, plus its next choice.

    At each node the target's choice is the arg max of its scores given the node's own path, so
    processors such as a repetition penalty see exactly the history they would see in `generate`.
    Only the nodes on the accepted path are ever scored.
    """
    # Without processors all choices are read in one device-to-host copy.
    choices = None if text.needs_scores else logits.argmax(dim=-1).tolist()

    def choose(node: int) -> int:
        row = node + 1
        if choices is not None:
            return int(choices[row])
        return int(text.scores(logits[row : row + 1]).argmax(dim=-1))

    return follow(proposal.tree, text, choose)


def follow(tree: TokenTree, text: TokenSequence, choose: Callable[[int], int]) -> Acceptance:
    """Walk from the root: commit the token chosen at each node, and go on where a child has it.

    Args:
        tree: what was verified.
        text: where tokens are committed; it may end in the middle of the path.
        choose: the next token given a node's path, as the target would choose it. Asked only
            for nodes (or `ROOT`) whose whole path is committed.
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

"""Acceptance rules: which path of a verified tree becomes text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sage_core.text import Text
from sage_core.tree import ROOT, TokenTree


@dataclass(frozen=True)
class Acceptance:
    """The outcome of one verification.

    ``nodes`` is the accepted path; ``tokens`` are its tokens and the target's own next one, which
    is missing only when the text ended on the path.
    """

    nodes: tuple[int, ...]
    tokens: tuple[int, ...]


AcceptRule = Callable[[TokenTree, Tensor, Text], Acceptance]
"""(tree, logits (nodes + 1, vocabulary) with the root's row first, text) -> what was committed.

The rule appends to ``text`` what it commits, token by token, and stops where the text ends.
"""


@torch.inference_mode()
def accept_greedy(tree: TokenTree, logits: Tensor, text: Text) -> Acceptance:
    """The longest path that equals the target's own greedy choices, plus its next choice.

    Walks from the root: at each node the target's choice is the arg max of its scores given the
    node's own path, so processors such as a repetition penalty see exactly the history they would
    see in `generate`. Only the nodes on the accepted path are ever scored.
    """
    nodes: list[int] = []
    tokens: list[int] = []
    # Without processors all choices are read in one device-to-host copy.
    choices = None if text.has_processors else logits.argmax(dim=-1).tolist()
    node: int | None = ROOT
    while node is not None:
        row = node + 1
        token = choices[row] if choices else int(text.scores(logits[row : row + 1]).argmax(dim=-1))
        tokens.append(token)
        ended = text.append(token)
        node = tree.child(node, token)
        if node is not None:
            nodes.append(node)
        if ended:
            break
    return Acceptance(tuple(nodes), tuple(tokens))

"""A draft's output head reduced to some rows: logits of fewer tokens, faster (FR-Spec)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from sage_core.drafts.vocab.token_list import END_FIELDS, DraftVocab, flatten_ids
from sage_core.errors import OptionError, UnsupportedError
from sage_core.generation.candidates import Candidates


@dataclass(frozen=True, eq=False)
class ReducedHead:
    """An output head for S tokens of a model's vocabulary: a copy of those rows."""

    ids: Tensor
    """(S,) int64, ascending: the token of each row. On the head's device."""
    weight: Tensor
    """(S, hidden), in the model's dtype."""
    bias: Tensor | None
    """(S,)"""
    tokens: np.ndarray
    """``ids`` on the host."""

    @classmethod
    @torch.inference_mode()
    def of(cls, model: Any, ids: Sequence[int]) -> ReducedHead:
        """The rows ``ids`` of a transformers model's output head, tied to its embedding or not.

        Raises:
            UnsupportedError: the output head is not an unquantized linear layer in memory.
        """
        head = model.get_output_embeddings()
        weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
        if not isinstance(head, torch.nn.Linear) or not _plain(weight):
            raise UnsupportedError(
                f"draft_vocab needs an unquantized linear output head, and that of "
                f"{type(model).__name__} is {type(head).__name__}: leave draft_vocab out"
            )
        rows = torch.tensor(sorted(set(ids)), dtype=torch.int64, device=head.weight.device)
        chosen = head.weight.detach().index_select(0, rows)
        bias = None if bias is None else bias.detach().index_select(0, rows)
        return cls(rows, chosen, bias, rows.cpu().numpy())

    def __len__(self) -> int:
        return len(self.tokens)

    def __call__(self, hidden: Tensor) -> Tensor:
        """(n, hidden) last hidden states -> (n, S) logits."""
        return linear(hidden, self.weight, self.bias)

    def scatter_logits(self, logits: Tensor, vocabulary: int) -> Tensor:
        """(n, S) logits -> (n, vocabulary) float32 by token id, -inf for all other tokens."""
        whole = logits.new_full((len(logits), vocabulary), -torch.inf, dtype=torch.float32)
        return whole.index_copy_(1, self.ids, logits.float())

    def to_token_ids(self, candidates: Candidates, vocabulary: int) -> Candidates:
        """Candidates by row of this head -> candidates by token id.

        The draft distribution becomes (F, vocabulary), with 0 for all other tokens, as the
        acceptance rule needs it.
        """
        draft = candidates.draft
        if draft is not None:
            whole = draft.new_zeros((len(draft), vocabulary))
            draft = whole.index_copy_(1, self.ids.to(draft.device), draft)
        return replace(candidates, tokens=self.tokens[candidates.tokens], draft=draft)


def reduced_head(
    target: Any, draft: Any, given: DraftVocab | Sequence[int] | ReducedHead
) -> ReducedHead:
    """The output head of ``draft`` for a list of tokens and the target's end tokens.

    A draft head (`drafts.head.module.Head`) uses the target's output head. Ids beyond the draft's
    vocabulary are left out. A `ReducedHead` is returned as it is.

    Raises:
        OptionError: ids beyond the target's vocabulary, or no draft model.
        UnsupportedError: see `ReducedHead.of`.
    """
    if draft is None:
        raise OptionError(
            "draft_vocab needs a draft model: pass one with a policy that drafts, or leave "
            "draft_vocab out"
        )
    if isinstance(given, ReducedHead):
        return given
    owner = draft if hasattr(draft, "get_output_embeddings") else target
    vocab = DraftVocab.of(given)
    ids = {*vocab.ids, *vocab.always}
    most = int(target.get_output_embeddings().weight.shape[0])
    if max(ids) >= most:
        raise OptionError(
            f"the draft vocabulary holds token {max(ids)}, and the target has only {most:,}: use "
            "one made for this target"
        )
    ids |= {index for index in _ends(target) if index < most}
    known = int(owner.get_output_embeddings().weight.shape[0])
    return ReducedHead.of(owner, [index for index in ids if index < known])


def _ends(model: Any) -> Iterator[int]:
    """End tokens and forced tokens of a model's configurations."""
    config = model.config
    holders = (model.generation_config, config, config.get_text_config(decoder=True))
    return flatten_ids(getattr(h, field, None) for h in holders for field in END_FIELDS)


def _plain(weight: Any) -> bool:
    plain = type(weight) in (Tensor, torch.nn.Parameter)
    return plain and weight.is_floating_point() and not weight.is_meta

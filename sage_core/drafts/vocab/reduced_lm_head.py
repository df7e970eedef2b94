"""A draft's output head with some of its rows: scores of fewer tokens, sooner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from sage_core.drafts.vocab.token_list import ENDS, DraftVocab, whole_numbers
from sage_core.errors import OptionError, UnsupportedError
from sage_core.generation.candidates import Candidates

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, eq=False)
class ReducedHead:
    """A head of S tokens out of a model's vocabulary. The model keeps its own; this is a copy."""

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
        """The rows ``ids`` of a transformers model's own head, tied to its embedding or not.

        Raises:
            UnsupportedError: the head is no plain linear layer in memory.
        """
        head = model.get_output_embeddings()
        weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
        if not isinstance(head, torch.nn.Linear) or not _plain(weight):
            raise UnsupportedError(
                f"the head of {type(model).__name__} is {type(head).__name__} with weights of a "
                "kind of their own, whose rows cannot be chosen: leave draft_vocab out"
            )
        rows = torch.tensor(sorted(set(ids)), dtype=torch.int64, device=head.weight.device)
        chosen = head.weight.detach().index_select(0, rows)
        return cls(
            rows,
            chosen,
            None if bias is None else bias.detach().index_select(0, rows),
            rows.cpu().numpy(),
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def __call__(self, hidden: Tensor) -> Tensor:
        """(n, hidden) last hidden states -> (n, S) logits."""
        return linear(hidden, self.weight, self.bias)

    def spread(self, logits: Tensor, vocabulary: int) -> Tensor:
        """(n, S) logits -> (n, vocabulary) float32, for rules that know tokens by their ids.

        What the draft does not score is impossible to it.
        """
        whole = logits.new_full((len(logits), vocabulary), -torch.inf, dtype=torch.float32)
        return whole.index_copy_(1, self.ids, logits.float())

    def named(self, offer: Candidates, vocabulary: int) -> Candidates:
        """An offer of rows of this head -> the same of token ids.

        What candidates were drawn from becomes (F, vocabulary), with 0 for the other tokens: the
        acceptance rule compares it with the target's distribution, which has them all.
        """
        draft = offer.draft
        if draft is not None:
            whole = draft.new_zeros((len(draft), vocabulary))
            draft = whole.index_copy_(1, self.ids.to(draft.device), draft)
        return replace(offer, tokens=self.tokens[offer.tokens], draft=draft)


def reduced_head(
    target: Any, draft: Any, given: DraftVocab | Sequence[int] | ReducedHead
) -> ReducedHead:
    """The head of ``draft`` for the tokens of a list, and for those that end the target's texts.

    A draft without a head of its own, `heads.module.Head`, scores by the target's.
    Ids that the draft does not know, having fewer rows than the target, are never drafted anyway.
    A head that has been made is given back.

    Raises:
        OptionError: ids beyond the target's vocabulary, or no draft model.
        UnsupportedError: see `ReducedHead.of`.
    """
    if draft is None:
        raise OptionError(
            "draft_vocab is what a draft model scores, and none drafts here: pass one with a "
            "policy that drafts, or leave draft_vocab out"
        )
    if isinstance(given, ReducedHead):
        return given
    scoring = draft if hasattr(draft, "get_output_embeddings") else target
    vocab = DraftVocab.of(given)
    ids = {*vocab.ids, *vocab.always}
    most = int(target.get_output_embeddings().weight.shape[0])
    if max(ids) >= most:
        raise OptionError(
            f"the draft vocabulary holds token {max(ids)}, and the target has only {most:,}: use "
            "one made for this target"
        )
    ids |= {index for index in _ends(target) if index < most}
    known = int(scoring.get_output_embeddings().weight.shape[0])
    return ReducedHead.of(scoring, [index for index in ids if index < known])


def _ends(model: Any) -> Iterator[int]:
    """The ids that end the texts of a model, or that its configurations force into them."""
    config = model.config
    holders = (model.generation_config, config, config.get_text_config(decoder=True))
    return whole_numbers(getattr(h, field, None) for h in holders for field in ENDS)


def _plain(weight: Any) -> bool:
    usual = type(weight) in (Tensor, torch.nn.Parameter)
    return usual and weight.is_floating_point() and not weight.is_meta

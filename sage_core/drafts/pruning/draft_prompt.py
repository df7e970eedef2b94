"""The tokens of a prompt that the draft reads: all, or its text and the kept visual tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from sage_core.drafts.pruning.options import Pruning
from sage_core.drafts.pruning.scores import AlignmentScores, AttentionScores
from sage_core.generation.prepare import Prepared
from sage_core.models.inputs import MARKS, visual_mask

Gatherer = AttentionScores | AlignmentScores
_GATHERERS: dict[str, type[Gatherer]] = {"verifier": AttentionScores, "alignment": AlignmentScores}


class DraftPrompt:
    """The tokens of one prompt that the draft reads, chosen after the target's prefill.

    Args:
        pruning: how many visual tokens are removed, and which.
        config: the target's configuration, with ``image_token_id`` and ``video_token_id``.
        prepared: the prompt.
    """

    def __init__(self, pruning: Pruning, config: Any, prepared: Prepared) -> None:
        self._pruning = pruning
        self._length = prepared.prompt_tokens
        ids = prepared.input_ids[0].cpu()
        video = visual_mask(config, ids, MARKS[1:])
        found = visual_mask(config, ids).nonzero()[:, 0]
        self._visual = found
        self._kept = pruning.kept(len(found), bool(video.any()))
        self._gatherer: Gatherer | None = None
        behind = len(found) and int(found[-1]) + 1 < self._length
        if self.prunes and behind and pruning.method in _GATHERERS:
            self._gatherer = _GATHERERS[pruning.method](found, self._length)

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of the prompt."""
        return len(self._visual)

    @property
    def visual_positions(self) -> torch.Tensor:
        """int64 (n,) on the CPU: their positions in the prompt, ascending."""
        return self._visual

    @property
    def kept_tokens(self) -> int:
        """How many of them the draft reads."""
        return self._kept

    @property
    def prunes(self) -> bool:
        return self._kept < len(self._visual)

    @contextmanager
    def observing(self, decoder: Any) -> Iterator[None]:
        """While open, compute scores in the forward of the target's decoder."""
        if self._gatherer is None:
            yield
            return
        with self._gatherer.observing(decoder):
            yield

    def positions(self) -> np.ndarray | None:
        """int64 positions of the prompt that the draft reads, ascending; None for all.

        Call it after the target's prefill. If its attention could not be observed (a kernel that is
        not scaled dot-product attention), tokens are kept uniformly.
        """
        if not self.prunes:
            return None
        scores = self._gatherer.scores if self._gatherer else None
        pruning = self._pruning
        if scores is None and pruning.method in _GATHERERS:
            pruning = Pruning(method="uniform")
        chosen = pruning.choose(len(self._visual), self._kept, scores)
        kept = np.ones(self._length, dtype=bool)
        kept[self._visual.numpy()] = False
        kept[self._visual.numpy()[chosen]] = True
        return kept.nonzero()[0]

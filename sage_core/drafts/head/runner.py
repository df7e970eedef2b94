"""A head at work on one sequence: a prompt's rows, passes over a tree's, commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_core.drafts.head.module import Head, HeadPrompt
from sage_core.runtime.backend import MakeRunner
from sage_core.runtime.cpu.packed_weights import PackedWeights
from sage_core.runtime.cpu.runner import CpuRunners
from sage_core.runtime.cpu.traced_pass import Tapes
from sage_core.runtime.kv_cache import TreeCache
from sage_core.runtime.tree_mask import TreeMaskBuffer


class HeadRunner:
    """Runs a head's layer between its target's embedding and output head, with its own cache.

    The cache holds ``committed`` rows and, between a pass and its `commit`, the tree columns that
    were passed. A row is a token of the text, or stands for some of a picture, so slots are not
    positions in the text; rotary positions of text are slots plus an offset that `prefill` is told.

    Args:
        head: on the device and in the dtype of the target's output head.
        target: the loaded model whose embedding and output head it shares.
        make: what makes runners for the pair; one that packs weights packs the head's too.
    """

    def __init__(self, head: Head, target: Any, make: MakeRunner | None = None) -> None:
        self._head = head
        self._embed = target.get_input_embeddings()
        output = target.get_output_embeddings()
        self._score: Callable[[Tensor], Tensor] = output
        self._packs: PackedWeights | None = None
        self._tapes: Tapes | None = None
        if isinstance(make, CpuRunners):
            self._packs = make.packs(head, [head.decoder, head.fuse, output])
            self._tapes = make.tapes(head, self._packs)
        self.device: torch.device = head.device
        self.committed = 0
        self._joined: Tensor | None = None
        self._embedded: dict[int, Tensor] = {}
        """(1, size) by token, of those that were passed alone: a text's steps draft them again."""
        self._offset = 0

    @property
    def size(self) -> int:
        """Of a feature."""
        return self._head.config.hidden_size

    def set_lm_head(self, head: Callable[[Tensor], Tensor]) -> None:
        """Score by ``head``, (n, size) -> (n, S), in place of the target's output head."""
        self._score = head

    @torch.inference_mode()
    def prefill(self, reading: HeadPrompt | None, following: int, room: int) -> None:
        """Read a prompt.

        Args:
            reading: its rows; None if it has none.
            following: rotary position of the token behind them.
            room: cache slots to reserve behind the prompt.
        """
        rows = 0 if reading is None else int(reading.inputs.shape[1])
        self.cache = TreeCache(1, rows + room)
        self._mask = TreeMaskBuffer(self.device, self._head.dtype)
        if reading is not None and rows:
            self._head.decoder(
                inputs_embeds=reading.inputs,
                position_ids=reading.positions,
                past_key_values=self.cache,
                use_cache=True,
            )
            self._joined = reading.joined
        self.committed = rows
        self._offset = following - rows

    @torch.inference_mode()
    def forward(
        self,
        features: Tensor,
        tokens: Sequence[int],
        depths: Sequence[int],
        visible: np.ndarray,
        last: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """One pass over n rows, behind the columns already passed since `commit`.

        Args:
            features: (n, size), the feature before each token.
            tokens: n token ids.
            depths: each token's distance from the first slot behind what is committed.
            visible: bool (n, columns), as for `Runner.forward`.
            last: give logits for this many last rows only; 0 for all.

        Returns:
            logits (n or ``last``, vocabulary) and the predicted features (n, size).
        """
        packs = self._packs if len(tokens) > 1 else None  # as for `CpuRunner`
        with packs.in_use() if packs else nullcontext():
            return self._forward(features, tokens, depths, visible, last)

    def _forward(
        self,
        features: Tensor,
        tokens: Sequence[int],
        depths: Sequence[int],
        visible: np.ndarray,
        last: int,
    ) -> tuple[Tensor, Tensor]:
        start = self.committed + self._offset
        inputs = {
            "features": features[None],
            "embeds": self.embedded(tokens)[None],
            "positions": torch.tensor([[start + d for d in depths]], device=self.device),
            "mask": self._mask.additive(visible, self.committed),
        }
        if self._joined is not None:
            inputs["joined"] = self._joined
        if self._tapes is None:
            predicted = self._predict(**inputs)[0]
        else:
            predicted = self._tapes.run(len(tokens), inputs, self.cache, self._predict)[0]
        return self._score(predicted[-last:] if last else predicted), predicted

    def _predict(
        self,
        features: Tensor,
        embeds: Tensor,
        positions: Tensor,
        mask: Tensor,
        joined: Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        """(1, n, size) predicted features; ``more`` goes to the decoder."""
        predicted: Tensor = self._head.decoder(
            inputs_embeds=self._head.inputs(features, embeds, joined),
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            **more,
        ).last_hidden_state
        return predicted

    def embedded(self, tokens: Sequence[int]) -> Tensor:
        """(n, size) embeddings of token ids, by the target's own embedding."""
        if len(tokens) == 1 and tokens[0] in self._embedded:
            return self._embedded[tokens[0]]
        ids = torch.tensor(list(tokens), device=self._embed.weight.device)
        found: Tensor = self._embed(ids).to(self.device, self._head.dtype)
        if len(tokens) == 1:
            self._embedded[tokens[0]] = found
        return found

    def commit(self, columns: Sequence[int]) -> None:
        """Make the given tree columns (ascending, a path) part of the text; forget the others."""
        self.cache.keep(self.committed, [self.committed + column for column in columns])
        self.committed += len(columns)

    def truncate(self, count: int) -> None:
        """Drop the last ``count`` committed rows, which are of text only."""
        self.committed -= count
        self.cache.keep(self.committed, [])

"""What a head needs of the target's own prefill, caught as it runs: no second pass is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sage_core.runtime.runner import Runner


@dataclass(frozen=True, eq=False)
class Heard:
    """A prompt as the target's decoder took it, and what it made of it."""

    features: Tensor
    """(1, n, size) last hidden states, after the final norm."""
    embeds: Tensor
    """(1, n, size) what each token went in as; a picture's are what its tower gave."""
    positions: Tensor
    """(1, n) or (axes, 1, n) rotary positions."""


class Listener:
    """Hears one target read: a prompt whole, later text piece by piece."""

    def __init__(self) -> None:
        self.prompt: Heard | None = None
        """To be cleared by whom it is for; a listener hears one."""
        self._waiting = True
        self.text: list[Tensor] = []
        """(n, size) last hidden states of later text, in order."""

    @contextmanager
    def listening(self, target: Runner) -> Iterator[None]:
        """While open, note what ``target`` prefills and reads."""
        embed = target.model.get_input_embeddings()

        def note(_module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            if not self._waiting:  # later text, which `Runner.read` tells of
                return
            self._waiting = False
            given = kwargs.get("inputs_embeds")
            if given is None:
                given = embed(kwargs["input_ids"] if "input_ids" in kwargs else args[0])
            features = output.last_hidden_state
            self.prompt = Heard(features, given, _positions(kwargs, features))

        handle = target.decoder.register_forward_hook(note, with_kwargs=True)
        target.heard = self.text
        try:
            yield
        finally:
            handle.remove()
            target.heard = None


def _positions(kwargs: dict[str, Any], features: Tensor) -> Tensor:
    """The rotary positions of a decoder's call, without a leading row of plain text positions."""
    given = kwargs.get("position_ids")
    if given is None:
        return torch.arange(features.shape[1], device=features.device)[None]
    positions: Tensor = given[1:] if given.ndim == 3 and given.shape[0] == 4 else given
    return positions

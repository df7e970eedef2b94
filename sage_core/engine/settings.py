"""The settings of a decoder: the one object that its parts receive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sage_core.drafts.pruning.options import Pruning
from sage_core.engine.costs.store import CostStore
from sage_core.engine.extensions import DecodingExtension
from sage_core.engine.model_check import ModelChecks
from sage_core.errors import UnsupportedError
from sage_core.runtime.backend import Backend
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policy import Policy


@dataclass(frozen=True, eq=False)
class DecoderSettings:
    """Models and options of a decoder, as for `SpeculativeDecoder`.

    Raises:
        UnsupportedError: an extension does not work with the backend.
    """

    target: Any
    draft: Any
    policy: Policy
    pruning: Pruning
    candidates: str
    costs: Costs | CostStore
    backend: Backend
    extensions: tuple[DecodingExtension, ...]
    checks: ModelChecks
    phase_times: bool = False
    batch: int = 1
    """Texts that are decoded at once."""

    def __post_init__(self) -> None:
        names = ", ".join(one.name for one in self.extensions if one.single_text)
        if names and not self.backend.batches:
            raise UnsupportedError(f"{names} needs eager passes: leave it out, or the backend")

    def extension(self, name: str) -> DecodingExtension | None:
        """The extension of an option; None if it is off."""
        return next((one for one in self.extensions if one.name == name), None)

    @property
    def lossy(self) -> str | None:
        """The lossy rule by which the text may differ from the target's own; None: it does not."""
        names = [str(one) for one in self.extensions if not one.lossless]
        return ", ".join(names) or None

    @property
    def reproducible(self) -> bool:
        """Whether trees follow no measured costs, or cannot decide about a token."""
        measured = isinstance(self.costs, CostStore) and self.policy.planner().counts_costs
        return not (measured and self.draft is not None) or self.target.dtype == torch.float32

    @property
    def times_phases(self) -> bool:
        """Whether phases are timed separately: always on the CPU."""
        device = self.target.get_input_embeddings().weight.device
        return self.phase_times or device.type != "cuda"

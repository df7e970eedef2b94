"""What a decoder was made with, checked: the one object that its parts receive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_core.drafts.head.checkpoint import check_head
from sage_core.drafts.head.module import Head
from sage_core.drafts.ngram import is_lookup
from sage_core.drafts.pruning.options import Pruning
from sage_core.engine.costs.store import CostStore
from sage_core.engine.extensions import DecodingExtension, resolve
from sage_core.errors import UnsupportedError
from sage_core.runtime.backend import Backend
from sage_core.runtime.cpu.executor import CpuBackend
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policy import Policy


@dataclass(frozen=True, eq=False)
class DecoderSettings:
    """Models and options of a decoder; arguments as for `SpeculativeDecoder`.

    Raises:
        OptionError, UnsupportedError: the options do not go together.
    """

    target: Any
    draft: Any
    policy: Policy
    pruning: Pruning
    candidates: str
    costs: Costs | CostStore
    backend: Backend
    extensions: tuple[DecodingExtension, ...]
    phase_times: bool = False
    batch: int = 1
    """Texts that are decoded at once, whose passes are made together."""

    @classmethod
    def of(
        cls,
        target: Any,
        draft: Any,
        policy: str | Policy | None,
        pruning: Pruning | None,
        costs: Costs | CostStore | None,
        candidates: str,
        backend: Backend | None,
        phase_times: bool,
        extensions: Sequence[DecodingExtension],
        options: Mapping[str, Any],
    ) -> DecoderSettings:
        """Settings from the arguments of `SpeculativeDecoder`."""
        if is_lookup(draft):
            draft, options = None, {**options, "lookup": draft}
        chosen, asked = resolve(policy, candidates, options, extensions, draft=draft is not None)
        draft = draft if chosen.drafts else None
        if isinstance(draft, Head):
            check_head(target, draft)
        backend = backend or CpuBackend()
        if any(one.single_text for one in asked) and not backend.batches:
            names = ", ".join(one.name for one in asked if one.single_text)
            raise UnsupportedError(
                f"{names} observes eager passes only: leave it out, or the backend"
            )
        return cls(
            target,
            draft,
            chosen,
            pruning or Pruning(),
            candidates,
            costs or CostStore(),
            backend,
            tuple(one.bind(target, draft) for one in asked),
            phase_times,
        )

    def extension(self, name: str) -> DecodingExtension | None:
        """The extension of an option; None if it is off."""
        return next((one for one in self.extensions if one.name == name), None)

    @property
    def lossy(self) -> str | None:
        """The rule by which the text need not be the target's own; None if it is."""
        names = [str(one) for one in self.extensions if not one.lossless]
        return ", ".join(names) or None

    @property
    def times_phases(self) -> bool:
        """Whether the seconds of each phase are its own."""
        device = self.target.get_input_embeddings().weight.device
        return self.phase_times or device.type != "cuda"

"""Sampling parameters of a request. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sage_core.checks import is_number
from sage_core.errors import OptionError, UnsupportedError
from sage_core.trees.policy import Policy, TreePlanner

CANDIDATES = ("topk", "drawn")
"""How a draft's candidates are selected when sampling; greedy decoding always uses ``topk``."""


@dataclass(frozen=True)
class SamplingParams:
    """Greedy decoding unless ``sample`` or any of the warper parameters is given.

    Parameters that are None are the checkpoint's own. ``sample=False`` and ``temperature=0`` mean
    greedy whatever else is given; ``top_k=0`` and ``top_p=1`` disable these warpers; ``candidates``
    (``topk`` or ``drawn``) affects speed only.

    Raises:
        OptionError: an invalid value.
    """

    sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    candidates: str = "topk"

    def __post_init__(self) -> None:
        checks = [
            ("temperature", "must be 0 (greedy) or a positive number", lambda x: x >= 0),
            ("top_p", "must be above 0 and at most 1", lambda x: 0 < x <= 1),
            ("top_k", "must be a whole number, 0 for off", lambda x: x >= 0 and int(x) == x),
            ("min_p", "must be between 0 and 1", lambda x: 0 <= x <= 1),
        ]
        for name, message, holds in checks:
            value = getattr(self, name)
            if value is not None and not (is_number(value) and holds(value)):
                raise OptionError(f"{name} {message}: {value!r}")
        _check_known(self.candidates)

    def generation_fields(self) -> dict[str, Any]:
        """The fields of `GenerationConfig` that these parameters set; empty if none was given."""
        if self.sample is False or self.temperature == 0:
            return {"do_sample": False}
        kinds = {"temperature": float, "top_p": float, "top_k": int, "min_p": float}
        values = {name: getattr(self, name) for name in kinds}
        given = {name: kinds[name](v) for name, v in values.items() if v is not None}
        return {"do_sample": True, **given} if given or self.sample else {}


def check_candidates(candidates: str, policy: Policy) -> None:
    """Refuse candidates that are unknown or that do not go with a policy.

    Raises:
        OptionError: no such candidates.
        UnsupportedError: ``drawn`` with a policy that prunes sampled nodes: what is kept would
            depend on the samples, and the output would no longer follow the target's distribution.
    """
    _check_known(candidates)
    if candidates == "drawn" and type(policy.planner()).prune is not TreePlanner.prune:
        raise UnsupportedError(
            f"policy {policy.name} drops nodes after drawing them, which candidates drawn do not "
            "allow: use candidates topk, or a policy such as static"
        )


def _check_known(candidates: str) -> None:
    if candidates not in CANDIDATES:
        raise OptionError(f"unknown candidates {candidates!r}: choose from {', '.join(CANDIDATES)}")

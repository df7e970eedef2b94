"""How each token is chosen: the likeliest one, or drawn. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

from sage_core.errors import OptionError, UnsupportedError
from sage_core.trees.policy import Policy, TreePlanner

CANDIDATES = ("topk", "drawn")
"""How a draft's candidates are chosen when a text is sampled; a greedy one always has ``topk``."""


@dataclass(frozen=True)
class SamplingParams:
    """Greedy unless sampling is asked for, by ``sample`` or by any of the figures.

    Figures that are None are the checkpoint's own. ``sample`` False and ``temperature`` 0 are
    greedy whatever else is given; ``top_k`` 0 and ``top_p`` 1 switch these off; ``candidates`` is
    ``topk`` or ``drawn`` and concerns the speed alone.

    Raises:
        OptionError: a value that makes no sense.
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
            if value is not None and not (_is_number(value) and holds(value)):
                raise OptionError(f"{name} {message}: {value!r}")
        _check_known(self.candidates)

    def generation_fields(self) -> dict[str, Any]:
        """The fields of `GenerationConfig` that this asks for; none if nothing was asked."""
        if self.sample is False or self.temperature == 0:
            return {"do_sample": False}
        figures = {
            "temperature": None if self.temperature is None else float(self.temperature),
            "top_p": None if self.top_p is None else float(self.top_p),
            "top_k": None if self.top_k is None else int(self.top_k),
            "min_p": None if self.min_p is None else float(self.min_p),
        }
        given = {name: value for name, value in figures.items() if value is not None}
        return {"do_sample": True, **given} if given or self.sample else {}


def check_candidates(candidates: str, policy: Policy, *, lookup: bool = False) -> None:
    """Refuse candidates that are unknown or that a policy's trees cannot be made of.

    ``lookup``: branches are looked up as well.

    Raises:
        OptionError: no such way to choose candidates.
        UnsupportedError: ``drawn`` with branches that nobody draws, or under a policy that drops
            nodes after drawing them: which ones stay would depend on what was drawn, and the
            output would no longer follow the target.
    """
    _check_known(candidates)
    if candidates == "drawn" and lookup:
        raise UnsupportedError(
            "candidates drawn do not go with branches that are looked up: use candidates topk"
        )
    if candidates == "drawn" and type(policy.planner()).prune is not TreePlanner.prune:
        raise UnsupportedError(
            f"policy {policy.name} drops nodes after drawing them, which candidates drawn do not "
            "allow: use candidates topk, or a policy such as static"
        )


def check_viskip(share: float | None, policy: Policy, *, model: bool, eager: bool = True) -> None:
    """Refuse a share of `viskip` that is none, has nothing to skip, or cannot be watched.

    ``model``: a draft model drafts; ``eager``: passes run eagerly.

    Raises:
        OptionError: not above 0 and at most 1, or nothing that could rest.
        UnsupportedError: passes that are not eager.
    """
    if share is None:
        return
    if not 0 < share <= 1:
        raise OptionError(f"viskip must be above 0 and at most 1: {share}")
    if not (model and policy.drafts):
        raise OptionError("viskip lets a draft model rest, and none drafts here: leave it out")
    if not eager:
        raise UnsupportedError("viskip watches eager passes only: leave it out, or the runner")


def _check_known(candidates: str) -> None:
    if candidates not in CANDIDATES:
        raise OptionError(f"unknown candidates {candidates!r}: choose from {', '.join(CANDIDATES)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)

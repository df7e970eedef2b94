"""Options of lossy acceptance rules, which accept drafted tokens that the target would not emit.

Everything else in this package keeps the output of the target alone. These rules change it: they
are experimental, off unless named, and results made with them carry their name.
`lossy_acceptance` implements them. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from sage_core.errors import OptionError, UnsupportedError
from sage_core.trees.option_specs import parse_spec, spec_text
from sage_core.trees.policy import Policy


@dataclass(frozen=True)
class Lossy:
    """A lossy rule. Its fields are its options; ``str`` gives the text that `as_lossy` reads."""

    name: ClassVar[str]

    def __str__(self) -> str:
        return spec_text(self.name, self, defaults=True)


@dataclass(frozen=True)
class Ears(Lossy):
    """Rejection sampling with an uncertainty-dependent tolerance (EARS, arXiv 2512.13194).

    A candidate x drawn from q is accepted if p(x) / q(x) >= u - tolerance (1 - max p), with u
    uniform on [0, 1). Requires sampling with ``drawn`` candidates.

    Raises:
        OptionError: ``tolerance`` is not above 0 and at most 1.
    """

    tolerance: float = 0.1

    name: ClassVar[str] = "ears"

    def __post_init__(self) -> None:
        if not 0 < self.tolerance <= 1:
            raise OptionError(f"ears: tolerance must be above 0 and at most 1: {self.tolerance}")


@dataclass(frozen=True)
class SpecVla(Lossy):
    """Greedy decoding that accepts nearby action tokens (Spec-VLA, arXiv 2507.22424).

    Token ids ``first`` to ``last`` are bins in order. Where the target's choice is one of them, a
    drafted one at most ``radius`` bins away is accepted.

    Raises:
        OptionError: an empty range, or a ``radius`` below 1.
    """

    first: int
    last: int
    radius: int = 1

    name: ClassVar[str] = "spec-vla"

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last:
            raise OptionError(
                f"spec-vla: needs 0 <= first < last, not first={self.first}, last={self.last}"
            )
        if self.radius < 1:
            raise OptionError(f"spec-vla: radius must be at least 1, not {self.radius}")


_RULES: Mapping[str, type[Lossy]] = MappingProxyType({rule.name: rule for rule in (Ears, SpecVla)})


def as_lossy(text: str | Lossy) -> Lossy:
    """A rule from ``ears:tolerance=0.1`` or ``spec-vla:radius=2,first=ID,last=ID``.

    Raises:
        OptionError: an unknown rule or option, a missing option, or an invalid value.
    """
    return text if isinstance(text, Lossy) else parse_spec(text, _RULES, "lossy rule")


def check_lossy(lossy: Lossy | None, policy: Policy, candidates: str) -> None:
    """Refuse a rule that cannot apply to this policy or to these candidates.

    Raises:
        UnsupportedError: the policy drafts nothing, or the rule needs other candidates.
    """
    if lossy is None:
        return
    if not policy.drafts:
        raise UnsupportedError(
            f"the lossy rule {lossy.name} relaxes what is accepted of drafts, and policy "
            f"{policy.name} has none: leave the rule out, or name another policy"
        )
    if isinstance(lossy, Ears) and candidates != "drawn":
        raise UnsupportedError(
            "the lossy rule ears relaxes rejection sampling: it needs candidates drawn"
        )
    if isinstance(lossy, SpecVla) and candidates == "drawn":
        raise UnsupportedError("the lossy rule spec-vla is for greedy text: use candidates topk")


def check_sampled(lossy: Lossy | None, sampled: bool) -> None:
    """Refuse `Ears` with greedy decoding and `SpecVla` with sampling.

    Raises:
        UnsupportedError: one of these two.
    """
    if isinstance(lossy, Ears) and not sampled:
        raise UnsupportedError(
            "the lossy rule ears is for sampled text: ask for sampling, or leave the rule out"
        )
    if isinstance(lossy, SpecVla) and sampled:
        raise UnsupportedError(
            "the lossy rule spec-vla is for greedy text: ask for greedy, or leave the rule out"
        )

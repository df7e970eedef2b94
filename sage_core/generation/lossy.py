"""Lossy acceptance rules: sooner than the target allows, and no longer its own text. No torch.

Everything else in this package leaves the output as the target alone would give it. These rules do
not: they accept drafted tokens that the target would not have put out. They are off unless asked
for by name, and whatever they touch says so. `relaxing` holds the rules themselves.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, get_type_hints

from sage_core.errors import OptionError, UnsupportedError
from sage_core.trees.policy import Policy

__all__ = ["Ears", "Lossy", "SpecVla", "as_lossy", "check_lossy", "check_sampled"]


@dataclass(frozen=True)
class Lossy:
    """A lossy rule. Its fields are its options; ``str`` gives the text that `as_lossy` reads."""

    name: ClassVar[str]

    def __str__(self) -> str:
        options = [f"{f.name}={getattr(self, f.name)}" for f in fields(self)]
        return f"{self.name}:" + ",".join(options)


@dataclass(frozen=True)
class Ears(Lossy):
    """Rejection sampling with a tolerance that grows with the target's doubt (arXiv 2512.13194).

    A candidate x drawn from q is accepted if p(x) / q(x) >= u - tolerance (1 - max p), with u
    uniform on [0, 1). It needs sampled text and candidates ``drawn``.

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
    """Greedy decoding that takes neighbours of ordered action tokens for them (arXiv 2507.22424).

    Ids ``first`` to ``last`` stand for bins in their order. Where the target would put out one of
    them, a drafted one at most ``radius`` bins away is accepted.

    Raises:
        OptionError: no such range, or a ``radius`` below 1.
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


_RULES: tuple[type[Lossy], ...] = (Ears, SpecVla)


def as_lossy(text: str | Lossy) -> Lossy:
    """A rule from ``ears:tolerance=0.1`` or ``spec-vla:radius=2,first=ID,last=ID``.

    Raises:
        OptionError: an unknown rule or option, one that is missing, or a value of the wrong kind.
    """
    if isinstance(text, Lossy):
        return text
    name, _, rest = text.partition(":")
    kind = next((rule for rule in _RULES if rule.name == name), None)
    if kind is None:
        known = ", ".join(rule.name for rule in _RULES)
        raise OptionError(f"unknown lossy rule {name!r}: choose from {known}")
    hints = get_type_hints(kind)
    known_options = [f.name for f in fields(kind)]
    given: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in known_options:
            raise OptionError(
                f"lossy rule {name} has no option {key!r}: its options are "
                f"{', '.join(known_options)}"
            )
        try:
            given[key] = hints[key](value)
        except ValueError:
            wanted = hints[key].__name__
            raise OptionError(
                f"lossy rule {name}: option {key} needs {wanted}, not {value!r}"
            ) from None
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in given]
    if missing:
        raise OptionError(f"lossy rule {name} needs {' and '.join(missing)}: {missing[0]}=VALUE")
    return kind(**given)


def check_lossy(lossy: Lossy | None, policy: Policy, candidates: str) -> None:
    """Refuse a rule that has nothing to relax under this policy and these candidates.

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
    """Refuse a rule on text of the other kind than it is for.

    Raises:
        UnsupportedError: `Ears` on greedy text, or `SpecVla` on sampled text.
    """
    if isinstance(lossy, Ears) and not sampled:
        raise UnsupportedError(
            "the lossy rule ears is for sampled text: ask for sampling, or leave the rule out"
        )
    if isinstance(lossy, SpecVla) and sampled:
        raise UnsupportedError(
            "the lossy rule spec-vla is for greedy text: ask for greedy, or leave the rule out"
        )

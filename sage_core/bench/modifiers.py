"""What can be added to a policy in a comparison: ``sage+ngram``, ``static+drawn+viskip``. No torch.

The flags of a run hold for all its methods; an addition is one row's own, so that a row with it
stands beside the row without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, TypeVar

from sage_core.drafts.ngram import Ngram
from sage_core.errors import OptionError
from sage_core.generation.lossy import Ears, Lossy, SpecVla, check_lossy, check_sampled
from sage_core.generation.sampling_params import check_candidates, check_viskip
from sage_core.trees import policies
from sage_core.trees.option_specs import parse_options, spec_text
from sage_core.trees.policies import Policy

__all__ = ["Addition", "Drawn", "Extended", "ViSkip", "Vocab", "parse", "spec"]

T = TypeVar("T")


@dataclass(frozen=True)
class ViSkip:
    """Draft nothing while this share of the attention is on the picture."""

    share: float = 0.35

    name: ClassVar[str] = "viskip"


@dataclass(frozen=True)
class Vocab:
    """The draft scores the tokens of ``list`` only: a file, or so many of the model's own list.

    Empty: all of the model's own list.
    """

    list: str = ""

    name: ClassVar[str] = "vocab"


@dataclass(frozen=True)
class Drawn:
    """Candidates are drawn from the draft where text is sampled."""

    name: ClassVar[str] = "drawn"


Addition = Ngram | ViSkip | Vocab | Drawn | Lossy


@dataclass(frozen=True)
class Extended:
    """A policy with additions, each of a kind of its own.

    Raises:
        OptionError: none or two of a kind, a policy that drafts nothing, or a share that is none.
        UnsupportedError: additions that do not go with the policy or with one another.
    """

    policy: Policy
    modifiers: tuple[Addition, ...]

    drafts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.policy.drafts:
            raise OptionError(
                f"{self.name}: policy {self.policy.name} drafts nothing that could be done "
                "otherwise: name another policy"
            )
        kinds = [Lossy if isinstance(one, Lossy) else type(one) for one in self.modifiers]
        if len(set(kinds)) < max(1, len(kinds)):
            raise OptionError(f"{self.name}: name each addition once, and one lossy rule at most")
        check_candidates(self.candidates, self.policy, lookup=self.get(Ngram) is not None)
        check_lossy(self.lossy, self.policy, self.candidates)
        if (viskip := self.get(ViSkip)) is not None:
            check_viskip(viskip.share, self.policy, model=True)

    @property
    def name(self) -> str:
        """Without options, as a policy's: ``sage+ngram``."""
        return "+".join([self.policy.name, *(_name(one) for one in self.modifiers)])

    @property
    def candidates(self) -> str:
        """EARS relaxes rejection sampling, so it draws its candidates."""
        own = isinstance(self.lossy, Ears) or self.get(Drawn) is not None
        return "drawn" if own else "topk"

    @property
    def lossy(self) -> Lossy | None:
        return self.get(Lossy)

    def get(self, kind: type[T]) -> T | None:
        """The addition of a kind, if there is one."""
        return next((one for one in self.modifiers if isinstance(one, kind)), None)

    def check_text(self, sampled: bool) -> None:
        """Refuse what is meant for the other kind of text.

        Raises:
            OptionError: drawn candidates for greedy text.
            UnsupportedError: a lossy rule for the other kind.
        """
        check_sampled(self.lossy, sampled)
        if self.candidates == "drawn" and not sampled:
            raise OptionError(
                f"{self.name}: candidates are drawn where text is sampled, and this is greedy: "
                "give --sample or --temperature, or leave the row out"
            )

    def within(self, policy: Policy, nodes: int) -> Extended:
        """The same with ``policy``, and looked-up branches of at most ``nodes`` nodes."""
        fewer = (
            replace(one, nodes=min(one.nodes, nodes)) if isinstance(one, Ngram) else one
            for one in self.modifiers
        )
        return Extended(policy, tuple(fewer))


_KINDS: Mapping[str, type[Addition]] = MappingProxyType(
    {"ngram": Ngram, **{kind.name: kind for kind in (Ears, SpecVla, ViSkip, Vocab, Drawn)}}
)


def parse(text: str) -> Extended:
    """``POLICY+ADDITION+...``, each part perhaps with options behind a colon.

    Raises:
        OptionError, UnsupportedError: an unknown part or option, or see `Extended`.
    """
    policy, *parts = text.split("+")
    found = []
    for part in parts:
        name, _, options = part.partition(":")
        if name not in _KINDS:
            raise OptionError(f"unknown addition {part!r}: choose from {', '.join(_KINDS)}")
        found.append(parse_options(_KINDS[name], options, name))
    return Extended(policies.parse(policy), tuple(found))


def spec(method: Extended) -> str:
    """The text that `parse` reads, options at their defaults left out."""
    parts = [
        str(one) if isinstance(one, Ngram | Lossy) else spec_text(_name(one), one)
        for one in method.modifiers
    ]
    return "+".join([policies.spec(method.policy), *parts])


def _name(one: Addition) -> str:
    return "ngram" if isinstance(one, Ngram) else one.name

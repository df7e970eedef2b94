"""Modifiers of a policy in a comparison: ``sage+ngram``, ``static+drawn+viskip``. No torch.

The options of a run apply to all its methods. A modifier applies to one method, so that the table
has a line with it and a line without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from sage_core.drafts.ngram import Ngram
from sage_core.drafts.vocab.token_list import FILE_NAME
from sage_core.engine import extensions
from sage_core.errors import OptionError
from sage_core.generation.lossy import Ears, Lossy, SpecVla, check_sampled
from sage_core.generation.sampling_params import check_candidates
from sage_core.trees import policies
from sage_core.trees.option_specs import parse_options, spec_text
from sage_core.trees.policies import Policy

__all__ = ["Drawn", "ModifiedPolicy", "Modifier", "Other", "ViSkip", "Vocab", "parse", "spec"]

T = TypeVar("T")


@dataclass(frozen=True)
class ViSkip:
    """Draft nothing from this share of attention on visual tokens on."""

    share: float = 0.35

    name: ClassVar[str] = "viskip"


@dataclass(frozen=True)
class Vocab:
    """The draft scores the tokens of ``list`` only: a file, or a number of tokens.

    Empty: all tokens of the list beside the target.
    """

    list: str = ""

    name: ClassVar[str] = "vocab"


@dataclass(frozen=True)
class Drawn:
    """Candidates are drawn from the draft's distribution; for sampled text."""

    name: ClassVar[str] = "drawn"


@dataclass(frozen=True)
class Other:
    """Any other option that changes drafting or acceptance: ``NAME`` or ``NAME:VALUE``.

    Raises:
        OptionError: no such option, or a value that it refuses.
    """

    name: str
    value: str = ""

    def __post_init__(self) -> None:
        extensions.parse({self.name: self.value or True})


Modifier = Ngram | ViSkip | Vocab | Drawn | Lossy | Other


@dataclass(frozen=True)
class ModifiedPolicy:
    """A policy with modifiers, one of each kind.

    Raises:
        OptionError: none or two of a kind, a policy that drafts nothing, or an invalid value.
        UnsupportedError: modifiers that do not go with the policy or with one another.
    """

    policy: Policy
    modifiers: tuple[Modifier, ...]

    drafts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.policy.drafts:
            raise OptionError(
                f"{self.name}: policy {self.policy.name} drafts nothing, so modifiers have no "
                "effect: name another policy"
            )
        kinds = [Lossy if isinstance(one, Lossy) else _name(one) for one in self.modifiers]
        if len(set(kinds)) < max(1, len(kinds)):
            raise OptionError(f"{self.name}: name each modifier once, and one lossy rule at most")
        check_candidates(self.candidates, self.policy)
        for extension in extensions.parse(self.options):
            extension.check(self.policy, self.candidates, draft=True)

    @property
    def name(self) -> str:
        """Without options: ``sage+ngram``."""
        return "+".join([self.policy.name, *(_name(one) for one in self.modifiers)])

    @property
    def candidates(self) -> str:
        """``drawn`` or ``topk``. EARS relaxes rejection sampling, which needs drawn candidates."""
        drawn = isinstance(self.lossy, Ears) or self.get(Drawn) is not None
        return "drawn" if drawn else "topk"

    @property
    def lossy(self) -> Lossy | None:
        return self.get(Lossy)

    @property
    def options(self) -> dict[str, Any]:
        """Values of options that change drafting or acceptance, by name; lists are not read yet."""
        values: dict[str, Any] = {}
        for one in self.modifiers:
            if isinstance(one, Ngram):
                values["lookup"] = one
            elif isinstance(one, Lossy):
                values["lossy"] = one
            elif isinstance(one, ViSkip):
                values["viskip"] = one.share
            elif isinstance(one, Vocab):
                values["draft_vocab"] = one.list or FILE_NAME
            elif isinstance(one, Other):
                values[one.name] = one.value or True
        return values

    def get(self, kind: type[T]) -> T | None:
        """The modifier of a kind; None if there is none."""
        return next((one for one in self.modifiers if isinstance(one, kind)), None)

    def check_text(self, sampled: bool) -> None:
        """Refuse modifiers that are for greedy text only, or for sampled text only.

        Raises:
            OptionError: drawn candidates for greedy text.
            UnsupportedError: a lossy rule for the other kind of text.
        """
        check_sampled(self.lossy, sampled)
        if self.candidates == "drawn" and not sampled:
            raise OptionError(
                f"{self.name}: drawn candidates need sampling: give --sample or --temperature, or "
                "leave this method out"
            )

    def within(self, policy: Policy, nodes: int) -> ModifiedPolicy:
        """The same with ``policy``, and looked-up branches of at most ``nodes`` nodes."""
        fewer = (
            replace(one, nodes=min(one.nodes, nodes)) if isinstance(one, Ngram) else one
            for one in self.modifiers
        )
        return ModifiedPolicy(policy, tuple(fewer))


_KINDS: Mapping[str, type[Modifier]] = MappingProxyType(
    {"ngram": Ngram, **{kind.name: kind for kind in (Ears, SpecVla, ViSkip, Vocab, Drawn)}}
)


def parse(text: str) -> ModifiedPolicy:
    """``POLICY+MODIFIER+...``, each part perhaps with options behind a colon.

    Raises:
        OptionError, UnsupportedError: an unknown part or option; see also `ModifiedPolicy`.
    """
    policy, *parts = text.split("+")
    return ModifiedPolicy(policies.parse(policy), tuple(map(_parse_modifier, parts)))


def _parse_modifier(text: str) -> Modifier:
    name, _, options = text.partition(":")
    if name in _KINDS:
        return parse_options(_KINDS[name], options, name)
    others = [other for other in extensions.available() if other not in _OWN_NAMES]
    if name in others:
        return Other(name, options)
    raise OptionError(f"unknown modifier {text!r}: choose from {', '.join([*_KINDS, *others])}")


_OWN_NAMES = ("lookup", "draft_vocab", "lossy", "viskip")
"""Options whose modifiers have names and options of their own."""


def spec(method: ModifiedPolicy) -> str:
    """The text that `parse` reads; options at their defaults are left out."""
    return "+".join([policies.spec(method.policy), *map(_spec_modifier, method.modifiers)])


def _spec_modifier(one: Modifier) -> str:
    if isinstance(one, Ngram | Lossy):
        return str(one)
    if isinstance(one, Other):
        return f"{one.name}:{one.value}" if one.value else one.name
    return spec_text(one.name, one)


def _name(one: Modifier) -> str:
    return "ngram" if isinstance(one, Ngram) else one.name

"""Modifiers of a policy in a comparison: ``sage+ngram``, ``static+drawn+viskip``. No torch.

The options of a run apply to all its methods. A modifier applies to one method, so that the table
has a line with it and a line without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

from sage_core.drafts.ngram import Ngram
from sage_core.drafts.vocab.token_list import FILE_NAME
from sage_core.engine import extensions
from sage_core.engine.extensions.viskip import ViSkip
from sage_core.errors import OptionError
from sage_core.generation.lossy import Ears, Lossy, SpecVla, check_sampled
from sage_core.trees import policies
from sage_core.trees.option_specs import parse_options, spec_text
from sage_core.trees.policies import Policy

__all__ = ["Drawn", "ModifiedPolicy", "Modifier", "Vocab", "parse", "spec"]


@dataclass(frozen=True)
class Vocab:
    """The draft scores the tokens of ``list`` only: a file, or a number of tokens.

    Empty: all tokens of the list beside the target.
    """

    list: str = ""


@dataclass(frozen=True)
class Drawn:
    """Candidates are drawn from the draft's distribution; for sampled text."""


_KINDS: Mapping[str, tuple[str, type]] = MappingProxyType(
    {
        "ngram": ("lookup", Ngram),
        "ears": ("lossy", Ears),
        "spec-vla": ("lossy", SpecVla),
        "viskip": ("viskip", ViSkip),
        "vocab": ("draft_vocab", Vocab),
        "drawn": ("candidates", Drawn),
    }
)
"""Modifiers with options: the option of the engine that they set, and what holds its value.

Any other option that changes drafting or acceptance is a modifier by its own name."""


@dataclass(frozen=True)
class Modifier:
    """An option of the engine that applies to one method."""

    name: str
    option: str
    value: Any
    """An object of the kind in `_KINDS`; for other options their text, or True."""

    def __str__(self) -> str:
        if self.name in _KINDS:
            return spec_text(self.name, self.value, defaults=self.option == "lossy")
        return self.name if self.value is True else f"{self.name}:{self.value}"


@dataclass(frozen=True)
class ModifiedPolicy:
    """A policy with modifiers, one for each option.

    Raises:
        OptionError: none or two for an option, a policy that drafts nothing, or an invalid value.
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
        names = [one.option for one in self.modifiers]
        if len(set(names)) < max(1, len(names)):
            raise OptionError(f"{self.name}: name each modifier once, and one lossy rule at most")
        extensions.resolve(self.policy, self.candidates, self.options, draft=True)

    @property
    def name(self) -> str:
        """Without options: ``sage+ngram``."""
        return "+".join([self.policy.name, *(one.name for one in self.modifiers)])

    def get(self, option: str) -> Any:
        """The value of an option; None without its modifier."""
        return next((one.value for one in self.modifiers if one.option == option), None)

    @property
    def lossy(self) -> Lossy | None:
        rule: Lossy | None = self.get("lossy")
        return rule

    @property
    def candidates(self) -> str:
        """``drawn`` or ``topk``. EARS relaxes rejection sampling, which needs drawn candidates."""
        return "drawn" if isinstance(self.lossy, Ears) or self.get("candidates") else "topk"

    @property
    def options(self) -> dict[str, Any]:
        """Values of options that change drafting or acceptance, by name; lists are not read yet."""
        values = {one.option: one.value for one in self.modifiers if one.option != "candidates"}
        if "draft_vocab" in values:
            values["draft_vocab"] = values["draft_vocab"].list or FILE_NAME
        return values

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

        def limited(one: Modifier) -> Modifier:
            if one.option != "lookup":
                return one
            return replace(one, value=replace(one.value, nodes=min(one.value.nodes, nodes)))

        return ModifiedPolicy(policy, tuple(map(limited, self.modifiers)))


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
        option, kind = _KINDS[name]
        return Modifier(name, option, parse_options(kind, options, name))
    renamed = {option for option, _ in _KINDS.values()}
    others = [option for option in extensions.available() if option not in renamed]
    if name in others:
        return Modifier(name, name, options or True)
    raise OptionError(f"unknown modifier {text!r}: choose from {', '.join([*_KINDS, *others])}")


def spec(method: ModifiedPolicy) -> str:
    """The text that `parse` reads; options at their defaults are left out."""
    return "+".join([policies.spec(method.policy), *map(str, method.modifiers)])

"""The methods that can be compared, by name: tree policies, and transformers' own decoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from sage_core.bench import modifiers
from sage_core.bench.modifiers import ModifiedPolicy
from sage_core.drafts.ngram import Ngram
from sage_core.errors import OptionError
from sage_core.generation.lossy import Ears, as_lossy, check_sampled
from sage_core.trees import policies
from sage_core.trees.option_specs import parse_options, spec_text
from sage_core.trees.policies import Policy

__all__ = [
    "ALL",
    "ALL_SAMPLED",
    "Assisted",
    "AssistedBest",
    "BestStaticTree",
    "Chosen",
    "Generate",
    "MethodSpec",
    "NgramDrafts",
    "PromptLookup",
    "check_lossy",
    "chosen",
    "parse",
    "spec",
]

ALL = (
    *("chain", "static", "best-static", "optimal-static", "sage-paper", "eagle2", "spec-llava"),
    *("sage+ngram", "sage+viskip", "sage+vocab", "ngram", "transformers", "transformers-assisted"),
    *("transformers-assisted-best", "transformers-lookup"),
)
"""What ``--compare all`` adds to the reference and `sage`, as far as the pair can run it."""
ALL_SAMPLED = (*ALL, "static+drawn", "static+ears:tolerance=0.1")
"""The same for sampled text. `ALL` has no lossy rule: the one for greedy text needs the ids of
action tokens."""
_STATIC_NODES = 25  # of SpecVLM's tree


@dataclass(frozen=True)
class OtherMethod:
    """A method that is not a tree policy. Its fields are its options."""

    name: ClassVar[str]
    drafts: ClassVar[bool] = False
    calibrates: ClassVar[bool] = False
    """Whether a setting is chosen on other items before it is measured."""


@dataclass(frozen=True)
class Generate(OtherMethod):
    """transformers' own `generate`."""

    name: ClassVar[str] = "transformers"

    def arguments(self) -> dict[str, Any]:
        """Further arguments of `generate`."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Fields of the assistant's `GenerationConfig` in place of its own."""
        return {}


@dataclass(frozen=True)
class Assisted(Generate):
    """`generate(assistant_model=draft)`.

    Raises:
        OptionError: an unknown schedule, or a negative number of tokens.
    """

    tokens: int = 0
    """Drafted in a round; 0: transformers' default."""
    threshold: float = -1.0
    """Confidence below which drafting stops; -1: transformers' default."""
    schedule: str = ""
    """``constant``, ``heuristic`` or ``heuristic_transient``; empty: transformers' default."""

    name: ClassVar[str] = "transformers-assisted"
    drafts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.schedule not in ("", "constant", "heuristic", "heuristic_transient"):
            raise OptionError(
                f"{self.name}: schedule is constant, heuristic or heuristic_transient, "
                f"not {self.schedule!r}"
            )
        if self.tokens < 0:
            raise OptionError(f"{self.name}: tokens must not be negative")

    def settings(self) -> dict[str, Any]:
        given: dict[str, Any] = {}
        if self.tokens:
            given["num_assistant_tokens"] = self.tokens
        if self.threshold >= 0:
            given["assistant_confidence_threshold"] = self.threshold
        if self.schedule:
            given["num_assistant_tokens_schedule"] = self.schedule
        return given


@dataclass(frozen=True)
class AssistedBest(Generate):
    """`generate(assistant_model=draft)` with the fastest of several settings on other items."""

    name: ClassVar[str] = "transformers-assisted-best"
    drafts: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True


@dataclass(frozen=True)
class PromptLookup(Generate):
    """`generate(prompt_lookup_num_tokens=tokens)`: prompt lookup decoding.

    Raises:
        OptionError: a number below 1.
    """

    tokens: int = 10
    ngram: int = 2
    """The maximum number of tokens that are matched."""

    name: ClassVar[str] = "transformers-lookup"

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.ngram < 1:
            raise OptionError(f"{self.name}: tokens and ngram must be at least 1")

    def arguments(self) -> dict[str, Any]:
        return {"prompt_lookup_num_tokens": self.tokens, "max_matching_ngram_size": self.ngram}


@dataclass(frozen=True)
class NgramDrafts(OtherMethod, Ngram):
    """Trees from n-gram lookup, without a draft model."""

    name: ClassVar[str] = "ngram"


@dataclass(frozen=True)
class BestStaticTree(OtherMethod):
    """The best fixed tree of ``nodes`` nodes for this pair, by acceptance on other items."""

    nodes: int = _STATIC_NODES

    name: ClassVar[str] = "best-static"
    drafts: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise OptionError(f"{self.name}: nodes must be at least 1, not {self.nodes}")


_OTHERS: tuple[type[OtherMethod], ...]
_OTHERS = (Generate, Assisted, AssistedBest, PromptLookup, NgramDrafts, BestStaticTree)

MethodSpec = Policy | ModifiedPolicy | OtherMethod


@dataclass(frozen=True)
class Chosen:
    """The methods of a run by name, the reference first."""

    methods: Mapping[str, MethodSpec]
    optional: frozenset[str] = frozenset()
    """Those that were not asked for by name: left out if the pair cannot run them."""


def split(text: str) -> list[str]:
    """``static,sage-paper:dmax=12,nmax=32,chain`` -> its three methods.

    Methods are separated by commas or semicolons; a part such as ``nmax=32`` belongs to the
    method before it.
    """
    found: list[str] = []
    for part in text.replace(";", ",").split(","):
        part = part.strip()
        if not part:
            continue
        if "=" in part.partition(":")[0] and found:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def parse(text: str) -> MethodSpec:
    """A method from ``name`` or ``name:option=value,...``, a policy perhaps with modifiers.

    Raises:
        OptionError: an unknown name or option, or an invalid value; names the valid ones.
        UnsupportedError: modifiers that do not go together.
    """
    name = text.partition(":")[0].partition("+")[0]
    kind = next((other for other in _OTHERS if other.name == name), None)
    if kind is not None and "+" in text:
        raise OptionError(f"{text}: only policies take modifiers, and {name} is not a policy")
    if kind is not None:
        return parse_options(kind, text.partition(":")[2], f"method {name}")
    known = policies.available()
    if name not in known:
        names = [*sorted(known), *(other.name for other in _OTHERS)]
        raise OptionError(f"unknown method {name!r}: choose from {', '.join(names)}, or all")
    return modifiers.parse(text) if "+" in text else policies.parse(text)


def spec(method: MethodSpec) -> str:
    """The text that `parse` turns into this method; options at their defaults are left out."""
    if isinstance(method, Policy):
        return policies.spec(method)
    if isinstance(method, ModifiedPolicy):
        return modifiers.spec(method)
    return spec_text(method.name, method)


def chosen(
    compare: str,
    reference: str,
    node_budget: int | None = None,
    *,
    named: bool = True,
    sampled: bool = False,
) -> Chosen:
    """The methods of a run: the reference, those that are compared, and `sage`.

    `sage` is not added if it is named with options.

    Args:
        compare: methods between commas; ``all`` stands for `ALL` or `ALL_SAMPLED`.
        reference: the method that the others are compared with.
        node_budget: no tree has more nodes; None: each policy's own limit.
        named: whether ``compare`` was asked for; False: it is a default, so its methods are
            optional, as those that ``all`` stands for always are.
        sampled: whether text is sampled.

    Raises:
        OptionError: see `parse`; a method for the other kind of text; a reference whose sampled
            texts cannot be compared with those of other methods.
        UnsupportedError: see `parse`.
    """

    def method_of(name: str) -> MethodSpec:
        method = parse(name)
        if node_budget is not None:
            method = _within(method, node_budget)
        if isinstance(method, ModifiedPolicy):
            method.check_text(sampled)
        return method

    names = split(compare)
    every = (ALL_SAMPLED if sampled else ALL) if "all" in names else ()
    own = [name for name in names if name != "all"]
    first = method_of(reference)
    if sampled:
        _check_sampled_reference(first)
    methods = [first, *map(method_of, every), *map(method_of, own)]
    if not any(method.name == "sage" for method in methods[1:]):
        methods.append(method_of("sage"))
    optional = {spec(method_of(name)) for name in (every if named else (*every, *own))}
    required = {spec(first), "sage", *(spec(method_of(name)) for name in (own if named else ()))}
    return Chosen({spec(method): method for method in methods}, frozenset(optional - required))


def _check_sampled_reference(method: MethodSpec) -> None:
    """Refuse a reference that uses random numbers in another order than `generate`."""
    drawn = isinstance(method, ModifiedPolicy) and method.candidates == "drawn"
    if drawn or (isinstance(method, Generate) and method.name != Generate.name):
        raise OptionError(
            f"--reference {spec(method)}: with sampling, the same seed gives other texts than with "
            "any other method: use autoregressive or transformers"
        )


def check_lossy(rule: str | None, reference: MethodSpec, *, sampled: bool = False) -> None:
    """Refuse a lossy rule for all methods, or a lossy reference, where texts are compared.

    Raises:
        OptionError: an unknown rule, one that not all methods can follow, or a reference that is
            or would be lossy.
        UnsupportedError: a rule for the other kind of text.
    """
    if isinstance(reference, ModifiedPolicy) and reference.lossy is not None:
        raise OptionError(
            f"--reference {reference.name}: it is lossy: use autoregressive or transformers"
        )
    if rule is None:
        return
    lossy = as_lossy(rule)
    check_sampled(lossy, sampled)
    if isinstance(lossy, Ears):
        raise OptionError(
            "--lossy ears: it needs drawn candidates, which sage and other policies do not "
            "support: compare a policy with the modifier instead, such as "
            "static+ears:tolerance=0.1"
        )
    drafts = reference.drafts or isinstance(reference, NgramDrafts)
    if drafts and not isinstance(reference, Generate):
        raise OptionError(
            f"--lossy: the reference {reference.name} would be lossy too: use autoregressive or "
            "transformers"
        )


def _within(method: MethodSpec, nodes: int) -> MethodSpec:
    """The method with trees of ``nodes`` nodes: exactly for fixed trees, at most for others.

    SpecVLM's static tree has 25 nodes and cannot have more; a chain is only shortened.
    """
    if nodes < 1:
        raise OptionError(f"--node-budget must be at least 1, not {nodes}")
    if isinstance(method, ModifiedPolicy):
        lookup: Ngram | None = method.get("lookup")
        looked_up = 0 if lookup is None else min(lookup.nodes, nodes // 2)
        if lookup is not None and not looked_up:
            raise OptionError(f"{method.name}: a node budget of 1 leaves no node for the lookup")
        policy: Any = _within(method.policy, nodes - looked_up)
        return method.within(policy, looked_up)
    options: Any = method  # a frozen dataclass, whichever it is
    names = {f.name for f in fields(options)}
    if "nmax" in names:
        return replace(options, nmax=nodes)
    if "nodes" in names:
        published = method.name == "static" and not options.tree
        return replace(options, nodes=min(nodes, _STATIC_NODES) if published else nodes)
    if method.name == "chain":
        return replace(options, length=min(nodes, options.length))
    return method

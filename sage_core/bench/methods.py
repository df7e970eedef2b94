"""The methods that can be compared, by name: every policy of the engine, and transformers' own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, get_type_hints

from sage_core import policies
from sage_core.errors import OptionError
from sage_core.lookup import Ngram
from sage_core.lossy import as_lossy, check_sampled
from sage_core.policies import Policy

__all__ = [
    "ALL",
    "Assisted",
    "AssistedBest",
    "BestStaticTree",
    "Lookup",
    "Ngrams",
    "Peer",
    "Plain",
    "Spec",
    "check_lossy",
    "chosen",
    "parse",
    "spec",
    "split",
]

ALL = (
    "chain",
    "static",
    "best-static",
    "optimal-static",
    "sage-paper",
    "eagle2",
    "spec-llava",
    "ngram",
    "transformers",
    "transformers-assisted",
    "transformers-assisted-best",
    "transformers-lookup",
)
"""What ``--compare all`` adds to the reference and `sage`."""
_STATIC_NODES = 25  # SpecVLM's tree has no more


@dataclass(frozen=True)
class Peer:
    """A method that is no policy. Its fields are its options, as with policies."""

    name: ClassVar[str]
    drafts: ClassVar[bool] = False
    calibrates: ClassVar[bool] = False
    """Whether it chooses something on other items before it is measured."""


@dataclass(frozen=True)
class Plain(Peer):
    """transformers' own greedy `generate`."""

    name: ClassVar[str] = "transformers"


@dataclass(frozen=True)
class Assisted(Peer):
    """`generate(assistant_model=draft)`; an option that is left out is transformers' default.

    ``tokens``: tokens drafted a round (0: default); ``threshold``: confidence at which the draft
    stops (-1: default); ``schedule``: ``constant``, ``heuristic`` or ``heuristic_transient``.
    """

    tokens: int = 0
    threshold: float = -1.0
    schedule: str = ""

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
        """What differs from transformers' defaults, by the names of `GenerationConfig`."""
        given: dict[str, Any] = {}
        if self.tokens:
            given["num_assistant_tokens"] = self.tokens
        if self.threshold >= 0:
            given["assistant_confidence_threshold"] = self.threshold
        if self.schedule:
            given["num_assistant_tokens_schedule"] = self.schedule
        return given


@dataclass(frozen=True)
class AssistedBest(Peer):
    """`generate(assistant_model=draft)` with the fastest of several settings on other items."""

    name: ClassVar[str] = "transformers-assisted-best"
    drafts: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True


@dataclass(frozen=True)
class Lookup(Peer):
    """`generate(prompt_lookup_num_tokens=tokens)`: drafts are copied from the text so far.

    ``ngram``: how many tokens must match at most.
    """

    tokens: int = 10
    ngram: int = 2

    name: ClassVar[str] = "transformers-lookup"

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.ngram < 1:
            raise OptionError(f"{self.name}: tokens and ngram must be at least 1")


@dataclass(frozen=True)
class Ngrams(Peer):
    """The engine without a draft model, its trees looked up in the text: the options of `Ngram`."""

    longest: int = Ngram.longest
    shortest: int = Ngram.shortest
    branches: int = Ngram.branches
    length: int = Ngram.length
    nodes: int = Ngram.nodes
    least: float = Ngram.least

    name: ClassVar[str] = "ngram"

    def __post_init__(self) -> None:
        self.options()

    def options(self) -> Ngram:
        """What the engine takes."""
        return Ngram(**{f.name: getattr(self, f.name) for f in fields(self)})


@dataclass(frozen=True)
class BestStaticTree(Peer):
    """The best fixed tree of ``nodes`` nodes for this pair, from acceptance on other items."""

    nodes: int = _STATIC_NODES

    name: ClassVar[str] = "best-static"
    drafts: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise OptionError(f"{self.name}: nodes must be at least 1, not {self.nodes}")


_PEERS: tuple[type[Peer], ...] = (Plain, Assisted, AssistedBest, Lookup, Ngrams, BestStaticTree)

Spec = Policy | Peer


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


def parse(text: str) -> Spec:
    """A method from ``name`` or ``name:option=value,...``.

    Raises:
        OptionError: unknown name or option, or a value of the wrong kind, naming the valid ones.
    """
    name, _, rest = text.partition(":")
    kind = next((peer for peer in _PEERS if peer.name == name), None)
    if kind is not None:
        return _parse_peer(kind, rest)
    known = policies.available()
    if name not in known:
        names = [*sorted(known), *(peer.name for peer in _PEERS)]
        raise OptionError(f"unknown method {name!r}: choose from {', '.join(names)}, or all")
    return policies.parse(text)


def _parse_peer(kind: type[Peer], rest: str) -> Peer:
    hints = get_type_hints(kind)
    valid = [f.name for f in fields(kind)]
    given: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in valid:
            known = ", ".join(valid) or "none"
            raise OptionError(f"method {kind.name} has no option {key!r}: its options are {known}")
        try:
            given[key] = hints[key](value)
        except ValueError:
            wanted = hints[key].__name__
            raise OptionError(
                f"method {kind.name}: option {key} needs {wanted}, not {value!r}"
            ) from None
    return kind(**given)


def spec(method: Spec) -> str:
    """The text that `parse` turns into this method; options at their defaults are left out."""
    if isinstance(method, Policy):
        return policies.spec(method)
    changed = [
        f"{f.name}={getattr(method, f.name)}"
        for f in fields(method)
        if getattr(method, f.name) != f.default
    ]
    return method.name + (":" + ",".join(changed) if changed else "")


def chosen(compare: str, reference: str, node_budget: int | None = None) -> dict[str, Spec]:
    """The methods of a run by name: the reference, what is compared, and `sage`.

    `sage` is left out where it is named with options of its own; ``all`` is every method that
    there is. With ``node_budget`` no tree has more nodes.

    Raises:
        OptionError: see `parse`.
    """
    named = split(compare)
    if "all" in named:
        named = [*ALL, *(name for name in named if name != "all")]
    parsed = [parse(name) for name in named]
    first = parse(reference)
    methods = [first, *parsed]
    if not any(method.name == "sage" for method in parsed):
        methods.append(parse("sage"))
    if node_budget is not None:
        methods = [_within(method, node_budget) for method in methods]
    return {spec(method): method for method in methods}


def check_lossy(rule: str, reference: Spec) -> None:
    """Refuse a lossy rule that a benchmark, whose texts are greedy, cannot hold against exact ones.

    Raises:
        OptionError: no such rule, one for sampled text, or a reference that it would make lossy.
    """
    check_sampled(as_lossy(rule), sampled=False)
    if isinstance(reference, Policy) and reference.drafts:
        raise OptionError(
            f"--lossy: the reference {reference.name} would be lossy too: use autoregressive or "
            "transformers"
        )


def with_draft(methods: Sequence[Spec]) -> list[str]:
    """The names of those that need a draft."""
    return [spec(method) for method in methods if method.drafts]


def _within(method: Spec, nodes: int) -> Spec:
    """The method with trees of ``nodes`` nodes: as many where that is fixed, at most elsewhere.

    SpecVLM's static tree has 25 and no more; a chain is no tree and only kept from being longer.
    """
    if nodes < 1:
        raise OptionError(f"--node-budget must be at least 1, not {nodes}")
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

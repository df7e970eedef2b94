"""The methods that can be compared, by name: every policy of the engine, and transformers' own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from sage_core.bench import modifiers as modifiers
from sage_core.bench.modifiers import Extended
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
    "Extended",
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
    "sage+ngram",
    "sage+viskip",
    "sage+vocab",
    "ngram",
    "transformers",
    "transformers-assisted",
    "transformers-assisted-best",
    "transformers-lookup",
)
"""What ``--compare all`` adds to the reference and `sage`, as far as the pair can do it."""
ALL_SAMPLED = (*ALL, "static+drawn", "static+ears:tolerance=0.1")
"""The same where text is sampled. No lossy rule is in it for greedy text: the only one there is
needs to be told which tokens are actions."""
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
    """transformers' own `generate`."""

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

Spec = Policy | Extended | Peer


@dataclass(frozen=True)
class Chosen:
    """The methods of a run by name, the reference first.

    ``offered``: those that nobody asked for by name. A pair that cannot run one goes without.
    """

    methods: Mapping[str, Spec]
    offered: frozenset[str] = frozenset()


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
    """A method from ``name`` or ``name:option=value,...``, a policy perhaps with additions.

    Raises:
        OptionError: unknown name or option, or a value of the wrong kind, naming the valid ones.
        UnsupportedError: additions that do not go together.
    """
    name = text.partition(":")[0].partition("+")[0]
    kind = next((peer for peer in _PEERS if peer.name == name), None)
    if kind is not None and "+" in text:
        raise OptionError(f"{text}: only policies take additions, and {name} is none")
    if kind is not None:
        return parse_options(kind, text.partition(":")[2], f"method {name}")
    known = policies.available()
    if name not in known:
        names = [*sorted(known), *(peer.name for peer in _PEERS)]
        raise OptionError(f"unknown method {name!r}: choose from {', '.join(names)}, or all")
    return modifiers.parse(text) if "+" in text else policies.parse(text)


def spec(method: Spec) -> str:
    """The text that `parse` turns into this method; options at their defaults are left out."""
    if isinstance(method, Policy):
        return policies.spec(method)
    if isinstance(method, Extended):
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
    """The methods of a run: the reference, what is compared, and `sage`.

    `sage` is left out where it is named with options of its own; ``all`` is every method that
    there is. With ``node_budget`` no tree has more nodes.

    Args:
        named: somebody asked for what is in ``compare``; else it is only offered, as are those
            that ``all`` stands for.
        sampled: text is sampled.

    Raises:
        OptionError: see `parse`; or a method that is not for this kind of text, or a reference
            whose sampled texts no other can be compared with.
        UnsupportedError: see `parse`.
    """

    def made(name: str) -> Spec:
        method = parse(name)
        if node_budget is not None:
            method = _within(method, node_budget)
        if isinstance(method, Extended):
            method.check_text(sampled)
        return method

    asked = split(compare)
    every = (ALL_SAMPLED if sampled else ALL) if "all" in asked else ()
    own = [name for name in asked if name != "all"]
    first = made(reference)
    if sampled:
        _check_sampled_reference(first)
    methods = [first, *map(made, every), *map(made, own)]
    if not any(method.name == "sage" for method in methods[1:]):
        methods.append(made("sage"))
    offered = {spec(made(name)) for name in (every if named else (*every, *own))}
    wanted = {spec(first), "sage", *(spec(made(name)) for name in (own if named else ()))}
    return Chosen({spec(method): method for method in methods}, frozenset(offered - wanted))


def _check_sampled_reference(method: Spec) -> None:
    """Refuse a reference that draws otherwise than `generate`: nothing else writes its texts."""
    drawn = isinstance(method, Extended) and method.candidates == "drawn"
    if drawn or isinstance(method, Assisted | AssistedBest | Lookup):
        raise OptionError(
            f"--reference {spec(method)}: one seed gives other texts with it than with any other "
            "method where text is sampled: use autoregressive or transformers"
        )


def check_lossy(rule: str | None, reference: Spec, *, sampled: bool = False) -> None:
    """Refuse a lossy rule for all methods that this benchmark cannot hold against exact ones.

    Raises:
        OptionError: no such rule, one that not all methods can follow, or a reference that it
            would make lossy, or that is.
        UnsupportedError: one for the other kind of text.
    """
    if isinstance(reference, Extended) and reference.lossy is not None:
        raise OptionError(
            f"--reference {reference.name}: it is lossy: use autoregressive or transformers"
        )
    if rule is None:
        return
    lossy = as_lossy(rule)
    check_sampled(lossy, sampled)
    if isinstance(lossy, Ears):
        raise OptionError(
            "--lossy ears: it needs drawn candidates, which sage and others do not go with: "
            "compare a row of its own, such as static+ears:tolerance=0.1"
        )
    ours = isinstance(reference, Ngrams | BestStaticTree) or not isinstance(reference, Peer)
    if ours and (reference.drafts or isinstance(reference, Ngrams)):
        raise OptionError(
            f"--lossy: the reference {reference.name} would be lossy too: use autoregressive or "
            "transformers"
        )


def with_draft(methods: Iterable[Spec]) -> list[str]:
    """The names of those that need a draft."""
    return [spec(method) for method in methods if method.drafts]


def _within(method: Spec, nodes: int) -> Spec:
    """The method with trees of ``nodes`` nodes: as many where that is fixed, at most elsewhere.

    SpecVLM's static tree has 25 and no more; a chain is no tree and only kept from being longer.
    """
    if nodes < 1:
        raise OptionError(f"--node-budget must be at least 1, not {nodes}")
    if isinstance(method, Extended):
        looked = method.get(Ngram)
        least = 0 if looked is None else min(looked.nodes, nodes // 2)
        if looked is not None and not least:
            raise OptionError(f"{method.name}: a node budget of 1 leaves none to look up")
        policy: Any = _within(method.policy, nodes - least)
        return method.within(policy, least)
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

"""What is compared on tiny random pairs: for each part, prompts and the ways to decode them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count

from benchmarks.exactness.prompts import CUT_OFFS, SAMPLED, SETTINGS, Spec
from benchmarks.exactness.ways import CHEAP, ODD_TREE, Way
from sage_core.drafts.pruning.options import Pruning
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policies.sage.policy import UNKNOWN
from tests.tiny import FAMILIES
from tests.tiny.heads import KINDS

POLICIES = (
    "autoregressive",
    "chain",
    "static",
    f"static:tree={ODD_TREE}",
    "sage-paper",
    "sage-paper:dmin=1,dmax=12,wmin=1,wmax=6,nmax=96,theta=0.001,history=2",
    "sage-paper:lookahead=false,scale_width=false,parent=cumulative,nmax=10",
    "eagle2",
    "eagle2:depth=4,beam=2,k=3,nodes=5",
    "optimal-static",
    "spec-llava",
    "sage",
)
DRAFTING = ("chain", "static", "eagle2", "optimal-static", "spec-llava", "sage-paper", "sage")
"""Every policy that drafts, with its defaults."""
UNUSUAL = ("eagle2:nodes=90", "sage-paper:nmax=96,theta=0.001", "static:nodes=3", "chain:length=12")
FEW = ("static", "eagle2", "sage")
NGRAM = "ngram:shortest=1,least=0.001"
EAGER_NGRAM = f"{NGRAM},price=0"
"""Adds whatever it finds to a tree, whether it has paid or not."""
DEAR = Costs.linear(1.0, 0.05, 0.4)
"""Costs at which drafting hardly pays, so that `sage` often does not draft."""

PLAIN = tuple(Way(policy) for policy in POLICIES)
HEADS = tuple(Way(policy, kind, kind) for kind in KINDS for policy in DRAFTING)
PRUNED = tuple(
    Way(policy, what=f"pruning {ratio}", pruning=Pruning(ratio), visual=True)
    for ratio in (0.5, 0.9)
    for policy in POLICIES
    if policy != "autoregressive"
)
OPTIONS = (
    *(Way("sage", draft, "n-gram drafts") for draft in ("ngram", NGRAM)),
    *(Way(p, what="lookup beside a model", lookup=EAGER_NGRAM) for p in ("chain", *FEW)),
    *(Way(p, "head", "lookup beside a head", lookup=EAGER_NGRAM) for p in ("static", "sage")),
    *(
        Way(p, what="part of the vocabulary", part_of_vocabulary=True)
        for p in ("chain", "spec-llava", *FEW)
    ),
    *(Way(p, "vispec", "part, of a head", part_of_vocabulary=True) for p in ("static", "sage")),
    *(Way(p, what="viskip 0.35", viskip=0.35, visual=True) for p in ("sage-paper", *FEW)),
    *(Way(p, "head", "viskip 0.15, a head", viskip=0.15, visual=True) for p in FEW),
    *(
        Way(p, what=f"pruning by {method}", pruning=Pruning(0.5, method), visual=True)
        for method in ("alignment", "uniform", "random")
        for p in ("static", "sage")
    ),
    *(Way(p, "tower", "the target's own tower", visual=True) for p in ("static", "sage")),
    *(Way(p, "right", "a draft that is right") for p in ("chain", *FEW)),
    *(Way(p, "wrong", "a draft that is wrong") for p in ("chain", *FEW)),
    *(Way(p, what="static passes", graphs=True) for p in ("autoregressive", "chain", *FEW)),
    Way("static", "weighted", "static passes", graphs=True),
    Way("eagle2", what="static passes", graphs=True, lookup=EAGER_NGRAM),
    *(Way("sage", what="drafts that cost", costs=costs) for costs in (UNKNOWN, DEAR)),
    *(Way(p, what="custom_generate", manner="generate") for p in ("chain", "static", "eagle2")),
    *(
        Way(
            p,
            what="several at once",
            lookup=EAGER_NGRAM,
            pruning=Pruning(0.5),
            part_of_vocabulary=True,
            viskip=0.35,
        )
        for p in FEW
    ),
)
"""Everything that changes drafting besides policy and draft."""
SHARED = (
    *(Way(policy) for policy in ("autoregressive", *DRAFTING)),
    *(Way(policy, what="pruning 0.5", pruning=Pruning(0.5)) for policy in ("static", "sage")),
    *(Way("sage", draft, draft) for draft in ("head", "weighted", "vispec")),
    Way("sage", NGRAM, "n-gram drafts"),
    Way("sage", what="lookup beside a model", lookup=EAGER_NGRAM),
    Way("static", what="part of the vocabulary", part_of_vocabulary=True),
)
"""For texts that are decoded together, or continue one another."""
BATCHES = tuple(replace(way, what=way.what or "model", manner="batch") for way in SHARED)
TURNS = (
    *(replace(way, what=way.what or "model", manner="turns") for way in SHARED),
    Way("sage", what="viskip 0.35", viskip=0.35, manner="turns"),
)


def _mixtures(number: int) -> tuple[Way, ...]:
    """Random combinations of policy, draft and options, the same in every run."""
    draw = random.Random(7)
    drawn = []
    for _ in range(number):
        graphs = draw.random() < 0.2
        manner = "turns" if graphs else draw.choice(("turns", "turns", "batch"))
        viskip = manner == "turns" and not graphs and draw.random() < 0.4
        drawn.append(
            Way(
                draw.choice([*DRAFTING, *UNUSUAL]),
                draw.choice(("model", "model", "right", "wrong", "tower", *KINDS)),
                "mixtures",
                lookup=draw.choice((None, "ngram", NGRAM, EAGER_NGRAM)),
                pruning=draw.choice((Pruning(), Pruning(0.5, "uniform"), Pruning(0.9))),
                part_of_vocabulary=draw.random() < 0.3,
                viskip=draw.choice((0.1, 0.2, 0.35)) if viskip else None,
                graphs=graphs,
                costs=draw.choice((CHEAP, UNKNOWN, DEAR)),
                manner=manner,
            )
        )
    return tuple(drawn)


MIXTURES = _mixtures(32)

LENGTHS = (12, 1, 60, 200)
"""Words of the prompts, in turn."""
SHORT, USUAL, LONG = (1, 2, 7), 24, 40
"""Limits on new tokens."""
IN_TURN = ("penalty 1.05", SAMPLED, "plain")
"""Settings of parts that are about something else."""
Groups = Iterable[tuple[Spec, tuple[Way, ...]]]


@dataclass(frozen=True)
class Part:
    """A part of the matrix; without ``--full`` one in ``one_in`` of its ways is taken."""

    title: str
    ways: tuple[Way, ...]
    one_in: int


PARTS = {
    "policies": Part("Policies, settings and pruning, with a draft model", PLAIN + PRUNED, 2),
    "heads": Part("Heads of every kind, with every policy", HEADS, 8),
    "options": Part("Other drafts, and options that change drafting", OPTIONS, 3),
    "batches": Part("Texts decoded together", BATCHES, 4),
    "turns": Part("Texts that continue one another", TURNS, 4),
    "mixtures": Part("Random combinations", MIXTURES, 4),
}


def groups(part: str, family: str, *, full: bool, cut_offs: bool) -> Groups:
    """The prompts of a part for a family, each with the ways that it is decoded in.

    Without ``full``, some of the ways, others for each family, each with one prompt. Without
    ``cut_offs``, no sampling with top-k, top-p or min-p: in reduced precision rounding moves tokens
    across these limits, and no margin of scores would show it.
    """
    whole = [
        (spec, ways)
        for spec, ways in _GROUPS[part](family)
        if cut_offs or spec.setting not in CUT_OFFS
    ]
    return whole if full else _thinned(whole, PARTS[part], [*FAMILIES].index(family))


def _thinned(whole: Groups, part: Part, first: int) -> Groups:
    places: dict[Way, list[Spec]] = {}
    for spec, ways in whole:
        for way in ways:
            places.setdefault(way, []).append(spec)
    chosen: dict[Spec, tuple[Way, ...]] = {}
    for number, way in enumerate(part.ways):
        if way in places and number % part.one_in == first % part.one_in:
            specs = places[way]
            spec = specs[(11 * (number // part.one_in) + 3 * first) % len(specs)]
            chosen[spec] = (*chosen.get(spec, ()), way)
    return chosen.items()


def _policies(family: str) -> Iterator[tuple[Spec, tuple[Way, ...]]]:
    turn = count()
    kinds = FAMILIES[family].kinds
    for kind in kinds:
        for limit in (*SHORT, LONG, LONG):
            yield Spec(kind, _length(turn), limit), PLAIN
        if kind != "text":
            yield Spec(kind, _length(turn), LONG), PRUNED
    for number, setting in enumerate(name for name in SETTINGS if name != "plain"):
        for kind in dict.fromkeys(kinds[(number + n) % len(kinds)] for n in (0, 2)):
            yield Spec(kind, _length(turn), LONG, setting), PLAIN


def _heads(family: str) -> Iterator[tuple[Spec, tuple[Way, ...]]]:
    turn = count()
    kinds = FAMILIES[family].kinds
    for kind in kinds:
        for setting in ("plain", SAMPLED):
            # Without images all kinds of heads compute the same.
            few = kind == "text" and len(kinds) > 1
            ways = tuple(way for way in HEADS if not few or way.draft in ("head", "vispec"))
            yield Spec(kind, _length(turn), USUAL, setting), ways


def _options(family: str) -> Iterator[tuple[Spec, tuple[Way, ...]]]:
    turn = count()
    for number, kind in enumerate(FAMILIES[family].kinds):
        ways = tuple(way for way in OPTIONS if kind != "text" or not way.visual)
        yield Spec(kind, _length(turn), USUAL, IN_TURN[number % len(IN_TURN)]), ways


def _batches(family: str) -> Iterator[tuple[Spec, tuple[Way, ...]]]:
    for setting in ("plain", SAMPLED):
        yield Spec("batch", 0, USUAL, setting), BATCHES


def _turns(family: str) -> Iterator[tuple[Spec, tuple[Way, ...]]]:
    turn = count()
    for number, kind in enumerate(FAMILIES[family].kinds):
        setting = IN_TURN[(number + 1) % len(IN_TURN)]
        yield Spec(kind, _length(turn), USUAL, setting, turns=3), TURNS


def _mixed(family: str) -> Iterator[tuple[Spec, tuple[Way, ...]]]:
    turn = count()
    settings, kinds = list(SETTINGS), FAMILIES[family].kinds
    first = 5 * [*FAMILIES].index(family)
    for number, kind in enumerate(kinds):
        ways = tuple(way for way in MIXTURES if way.manner == "turns")
        setting = settings[(first + number) % len(settings)]
        spec = Spec(kind, _length(turn), USUAL, setting, turns=2)
        yield spec, ways[(first + number) % len(kinds) :: len(kinds)]
    batches = tuple(way for way in MIXTURES if way.manner == "batch")
    yield Spec("batch", 0, USUAL, SAMPLED), batches


def _length(turn: count[int]) -> int:
    return LENGTHS[next(turn) % len(LENGTHS)]


_GROUPS = {
    "policies": _policies,
    "heads": _heads,
    "options": _options,
    "batches": _batches,
    "turns": _turns,
    "mixtures": _mixed,
}

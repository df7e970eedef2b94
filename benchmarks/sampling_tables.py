"""Texts drawn from tables beside exact enumeration, for every way to draw them.

`benchmarks.sampling` runs and reports the comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
import transformers as tf

from sage_core.drafts.ngram import Ngram
from sage_core.errors import UnsupportedError
from sage_core.generation.candidates import Sampled, TopK
from sage_core.generation.sampling_params import check_candidates
from sage_core.generation.speculative_sampling import (
    RecursiveRejection,
    SamplingStrategy,
    TargetSampling,
)
from sage_core.trees import policies
from sage_core.trees.policy import Policy
from tests.tiny.tables import Picky, World, chi2_p_value, compare, draw, random_world
from tests.tiny.together import draw_together
from tests.tiny.wrong_rules import WRONG, wrong_choice

DETECTED = 1e-6
"""A p-value below which a rule is wrong."""
PLAUSIBLE = 1e-4
"""One above which it may be right; among some thirty tests few fall below 0.01 by chance."""
SMALL = {
    "static": "static:nodes=6",
    "optimal-static": "optimal-static:nodes=6",
    "sage-paper": "sage-paper:nmax=6",
    "spec-llava": "spec-llava:nodes=6",
}
"""Policies with drawn candidates have trees of six nodes: each node's own candidates can come in
six orders, which multiply."""
HYBRID = {"static+ngram": "static", "sage+ngram": "sage"}
"""Policies whose trees are joined by branches that are looked up in the text."""
WRONG_SEED = 960
ONE_BY_ONE: tuple[str | Policy, ...] = ("static", Picky())
VOCABULARY = {"topk": 5, "drawn": 3}
"""Tokens of the tables."""


@dataclass(frozen=True)
class Comparison:
    """One comparison."""

    part: str
    what: str
    policy: str
    draws: int
    chi2: float
    freedom: int
    p_value: float
    distance: float | None
    by_chance: float | None
    accepted: float | None
    must_fail: bool = False

    @property
    def as_it_should_be(self) -> bool:
        return self.p_value < DETECTED if self.must_fail else self.p_value > PLAUSIBLE


def _name(policy: str | Policy) -> str:
    return policy if isinstance(policy, str) else policy.name


def _policies(candidates: str) -> list[str | Policy]:
    """All policies that allow these candidates, and one whose trees have odd shapes."""
    names = [name for name in sorted(policies.available()) if _allowed(candidates, name)]
    if candidates == "drawn":
        names = [SMALL.get(name, name) for name in names]
    return [*names, Picky()]


def _warpers(vocabulary: int) -> dict[str, list[Any]]:
    """What a text's logits go through: nothing, each warper, and all of them with a penalty."""
    return {
        "no warper": [],
        "temperature": [tf.TemperatureLogitsWarper(0.7)],
        "top-k": [tf.TopKLogitsWarper(vocabulary - 1)],
        "top-p": [tf.TopPLogitsWarper(0.85)],
        "min-p": [tf.MinPLogitsWarper(0.2)],
        "all, and a penalty": [
            tf.RepetitionPenaltyLogitsProcessor(1.2),
            tf.TemperatureLogitsWarper(0.8),
            tf.TopKLogitsWarper(vocabulary - 1),
            tf.TopPLogitsWarper(0.95),
            tf.MinPLogitsWarper(0.05),
        ],
    }


def _choice(candidates: str, seed: int) -> SamplingStrategy:
    generator = torch.Generator().manual_seed(seed)
    if candidates == "topk":
        return SamplingStrategy(TargetSampling(generator), TopK())
    return SamplingStrategy(
        RecursiveRejection(generator), Sampled(torch.Generator().manual_seed(seed + 1))
    )


def _world(candidates: str, seed: int, kind: str) -> World:
    vocabulary = VOCABULARY[candidates]
    rules = _warpers(vocabulary)[kind]
    return random_world(seed, vocabulary, processors=rules, end=3 if vocabulary > 3 else None)


def _allowed(candidates: str, policy: str) -> bool:
    try:
        check_candidates(candidates, policies.parse(policy))
    except UnsupportedError:
        return False
    return True


def tables(draws: int, only: Sequence[str] = ()) -> Iterator[Comparison]:
    """Right rules under every policy and warper, then wrong ones, against enumeration.

    Every way to choose candidates goes with every policy that allows it, and then with the trees
    that looked-up branches join. ``only``: the policies that are wanted, without the wrong rules;
    none: everything.
    """
    both = [(c, p) for c in VOCABULARY for p in _policies(c)] + [("topk", p) for p in HYBRID]
    for number, ((candidates, policy), kind) in enumerate(product(both, _warpers(5)), 1):
        name, seed = _name(policy), 10 * number
        if only and name not in only:
            continue
        world, choice = _world(candidates, seed, kind), _choice(candidates, seed)
        lookup = Ngram() if name in HYBRID else None
        texts, accepted = draw_together(
            world, HYBRID.get(name, policy), choice, draws, seed, lookup
        )
        result = asdict(compare(texts, world.exact()))
        yield Comparison("tables", f"{candidates}, {kind}", name, accepted=accepted, **result)
    for wrong in () if only else WRONG:
        policy = Picky(0.3, k=1) if "policy" in wrong else "static"
        world = random_world(3, 3)
        texts, accepted = draw_together(world, policy, wrong_choice(wrong), draws, WRONG_SEED)
        result = asdict(compare(texts, world.exact()))
        yield Comparison(
            "wrong on purpose", wrong, _name(policy), accepted=accepted, must_fail=True, **result
        )


def singles(draws: int) -> Iterator[Comparison]:
    """Texts drawn one by one, each with its own numbers from torch's generators."""
    for number, candidates in enumerate(VOCABULARY):
        for policy in ONE_BY_ONE:
            world = random_world(3, 5, processors=_warpers(5)["all, and a penalty"], end=3)
            texts, accepted = draw(world, policy, _choice(candidates, 10 * number), draws)
            result = asdict(compare(texts, world.exact()))
            what = f"{candidates}, all, and a penalty"
            yield Comparison("one by one", what, _name(policy), accepted=accepted, **result)


def together(rows: list[Comparison]) -> list[Comparison]:
    """Each right rule over all of its tables: χ² and degrees of freedom add up."""
    sums = []
    for candidates in VOCABULARY:
        own = [r for r in rows if r.part == "tables" and r.what.startswith(candidates)]
        if own:
            chi2, freedom = sum(r.chi2 for r in own), sum(r.freedom for r in own)
            tau = float(np.mean([r.accepted for r in own]))
            counted = sum(r.draws for r in own), chi2, freedom, chi2_p_value(chi2, freedom)
            sums.append(Comparison("together", candidates, "all", *counted, None, None, tau))
    return sums

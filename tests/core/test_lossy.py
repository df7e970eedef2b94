"""Lossy rules: what they accept beyond the exact ones, where they are refused, and their mark."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import sage_core
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import OptionError, UnsupportedError
from sage_core.generation.candidates import Sampled
from sage_core.generation.lossy import Ears, SpecVla, as_lossy
from sage_core.generation.lossy_acceptance import NearestAction, TolerantRejection
from sage_core.generation.prepare import Prepared
from sage_core.generation.sequence import TokenSequence
from sage_core.generation.speculative_sampling import SamplingStrategy
from sage_core.trees.steps import Proposal
from sage_core.trees.tree import ROOT, TokenTree
from tests.tiny import build_pair, make_inputs
from tests.tiny.tables import compare, draw, random_world

SPEC_VLA = "spec-vla:first=4,last=12,radius=2"


def text(processors: Any = ()) -> TokenSequence:
    from transformers import LogitsProcessorList

    return TokenSequence(
        Prepared(
            input_ids=torch.tensor([[1, 2]]),
            processors=LogitsProcessorList(processors),
            criteria=[],
            config=SimpleNamespace(max_length=20, do_sample=False),
            model_inputs={},
            position_offset=0,
        )
    )


def rows(*best: int) -> torch.Tensor:
    """Logits (rows, 16) whose greatest is where it is said."""
    return torch.nn.functional.one_hot(torch.tensor(best), 16).float()


# Action ids are 4 to 12. A root with children, the second of which has a child of its own.
WALKS: dict[str, tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {
    "the target's own before a nearer to the draft": (
        {"tokens": (7, 8), "parents": (ROOT, ROOT), "best": (8, 0, 3)},
        (1,),
        (8, 3),
    ),
    "the nearest": (
        {"tokens": (10, 9), "parents": (ROOT, ROOT), "best": (8, 0, 3)},
        (1,),
        (9, 3),
    ),
    "of two equally near, the draft's first": (
        {"tokens": (9, 7), "parents": (ROOT, ROOT), "best": (8, 3, 0)},
        (0,),
        (9, 3),
    ),
    "none too far away": ({"tokens": (11,), "parents": (ROOT,), "best": (8, 0)}, (), (8,)),
    "no word for an action": ({"tokens": (3,), "parents": (ROOT,), "best": (4, 0)}, (), (4,)),
    "no action for a word": ({"tokens": (4,), "parents": (ROOT,), "best": (3, 0)}, (), (3,)),
    "a word that is right": ({"tokens": (3,), "parents": (ROOT,), "best": (3, 5)}, (0,), (3, 5)),
    "on below what was taken": (
        {"tokens": (9, 6), "parents": (ROOT, 0), "best": (8, 5, 2)},
        (0, 1),
        (9, 6, 2),
    ),
}


@pytest.mark.parametrize("name", WALKS)
def test_spec_vla_takes_the_nearest_action_within_the_radius(name: str) -> None:
    given, nodes, tokens = WALKS[name]
    parents = given["parents"]
    ranks = tuple(parents[:i].count(parent) for i, parent in enumerate(parents))
    tree = TokenTree(given["tokens"], parents, tuple(0.5 for _ in parents), ranks)
    rule = NearestAction(SpecVla(first=4, last=12, radius=2))
    outcome = rule(Proposal(tree), rows(*given["best"]), text())
    assert (outcome.nodes, outcome.tokens) == (nodes, tokens)


def test_a_token_that_a_processor_forbids_is_not_taken_for_its_neighbour() -> None:
    def forbid(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(1, torch.tensor([9]), -torch.inf)

    tree = TokenTree((9,), (ROOT,), (0.5,), (0,))
    outcome = NearestAction(SpecVla(4, 12))(Proposal(tree), rows(8, 0), text([forbid]))
    assert outcome.tokens == (8,)


@pytest.mark.parametrize(("p", "kept"), [(0.3, 0.7), (0.05, 0.2), (0.0, 0.0)])
def test_ears_accepts_by_its_equation(p: float, kept: float) -> None:
    """u - tolerance (1 - max p) < p / q, so the chance is p / q + tolerance (1 - max p)."""
    rule = TolerantRejection(torch.Generator().manual_seed(0), 0.2)
    probs = torch.tensor([[0.5, p, 0.5 - p]])
    draft = torch.tensor([0.0, 0.5, 0.5])
    expected = p / 0.5 + 0.2 * (1 - 0.5) if p else 0.0
    assert expected == pytest.approx(kept)
    hits = sum(_first_is_kept(rule, probs, draft) for _ in range(4000))
    assert hits / 4000 == pytest.approx(kept, abs=0.03)


def _first_is_kept(rule: TolerantRejection, probs: torch.Tensor, draft: torch.Tensor) -> bool:
    rule._slack = rule._tolerance * (1 - float(probs.max()))
    return rule._accepts(float(probs[0, 1]), float(draft[1]))


def test_ears_is_not_the_target_s_distribution_and_accepts_more() -> None:
    """The comparison that exact rules pass finds it out."""
    world = random_world(3, scale=1.3, end=3)
    taken = {}
    for tolerance in (1e-9, 0.8):
        first, second = (torch.Generator().manual_seed(seed) for seed in (1, 2))
        rule = TolerantRejection(first, tolerance)
        texts, taken[tolerance] = draw(
            world, "static", SamplingStrategy(rule, Sampled(second)), 1500
        )
        wrong = compare(texts, world.exact()).p_value < 1e-6
        assert wrong == (tolerance > 0.5)
    assert taken[0.8] > 1.05 * taken[1e-9]


SPECS = {
    "unknown": ("lucky", "choose from ears, spec-vla"),
    "unknown option": ("ears:slack=1", "its options are tolerance"),
    "no number": ("ears:tolerance=much", "needs float, not 'much'"),
    "nothing to tolerate": ("ears:tolerance=0", "above 0 and at most 1"),
    "no range": ("spec-vla:radius=2", "needs first and last"),
    "an empty range": ("spec-vla:first=9,last=4", "first < last"),
    "no radius": ("spec-vla:first=1,last=4,radius=0", "at least 1"),
}


@pytest.mark.parametrize("name", SPECS)
def test_what_makes_no_rule_is_refused(name: str) -> None:
    spec, message = SPECS[name]
    with pytest.raises(OptionError, match=message):
        as_lossy(spec)
    with pytest.raises(OptionError, match=message):
        sage_core.Options(lossy=spec)


@pytest.mark.parametrize("rule", [Ears(0.25), SpecVla(4, 12, 3)])
def test_a_rule_s_text_gives_the_rule(rule: Any) -> None:
    assert as_lossy(str(rule)) == rule


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "ears of the likeliest": ({"lossy": "ears"}, {}, "candidates drawn"),
    "ears of greedy text": ({"lossy": "ears", "candidates": "drawn"}, {}, "for sampled text"),
    "spec-vla of sampled text": ({"lossy": SPEC_VLA}, {"do_sample": True}, "for greedy text"),
    "no drafts": ({"lossy": SPEC_VLA, "policy": "autoregressive"}, {}, "has none"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_rule_with_nothing_to_relax_is_refused(name: str) -> None:
    given, options, message = REFUSED[name]
    target, draft = build_pair("llama")
    with pytest.raises(UnsupportedError, match=message):
        decoder = SpeculativeDecoder(target, draft, **{"policy": "static"} | given)
        decoder.generate(**make_inputs(target, "llama", "text"), max_new_tokens=8, **options)


def test_the_output_says_so_and_differs_only_when_asked() -> None:
    target, draft = build_pair("llama")
    inputs = make_inputs(target, "llama", "text") | {"max_new_tokens": 32}
    exact = SpeculativeDecoder(target, draft, "static").generate(**inputs)
    wide = "spec-vla:first=0,last=127,radius=60"
    lossy = SpeculativeDecoder(target, draft, "static", lossy=wide).generate(**inputs)
    assert exact.lossy is None
    assert lossy.lossy == "spec-vla:first=0,last=127,radius=60"
    assert not torch.equal(exact.sequences, lossy.sequences)
    assert lossy.stats.mean_accepted > exact.stats.mean_accepted


def test_generate_is_exact_unless_the_rule_is_named() -> None:
    target, draft = build_pair("llama")
    inputs = make_inputs(target, "llama", "text") | {"max_new_tokens": 24}
    ours = inputs | {"custom_generate": sage_core.custom_generate, "draft_model": draft}
    plain = target.generate(**inputs, do_sample=False)
    assert torch.equal(target.generate(**ours, policy="static"), plain)
    wide = "spec-vla:first=0,last=127,radius=60"
    assert not torch.equal(target.generate(**ours, policy="static", lossy=wide), plain)

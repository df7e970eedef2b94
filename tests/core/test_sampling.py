"""Sampling: the target's own distribution, `generate`'s own text under a seed, one text a seed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

import sage_core
from benchmarks.sampling_tables import Comparison, together
from sage_core.drafts.ngram import Ngram
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import OptionError, UnsupportedError
from sage_core.generation.candidates import Sampled, TopK
from sage_core.generation.speculative_sampling import (
    RecursiveRejection,
    SamplingStrategy,
    TargetSampling,
)
from sage_core.trees.policy import Growth, Policy
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.tables import Picky, World, chi2_p_value, compare, draw, random_world
from tests.tiny.together import draw_together
from tests.tiny.wrong_rules import WRONG, wrong_choice

POLICIES = ("autoregressive", "chain", "static", "eagle2", "spec-llava", "sage-paper", "sage")
DRAWS = 1500
FIGURES: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_k": 30, "top_p": 0.9}


# The distribution, against exact enumeration. `benchmarks.sampling` does the same at length.


def right_choice(candidates: str, seed: int = 5) -> SamplingStrategy:
    first = torch.Generator().manual_seed(seed)
    if candidates == "topk":
        return SamplingStrategy(TargetSampling(first), TopK())
    return SamplingStrategy(
        RecursiveRejection(first), Sampled(torch.Generator().manual_seed(seed + 1))
    )


def processors(kind: str) -> list[Any]:
    if kind == "plain":
        return []
    return [
        tf.RepetitionPenaltyLogitsProcessor(1.2),
        tf.TemperatureLogitsWarper(0.8),
        tf.TopKLogitsWarper(3),
        tf.TopPLogitsWarper(0.95),
    ]


def world(kind: str) -> World:
    return random_world(3, scale=1.3, processors=processors(kind), end=3)


CASES: dict[str, tuple[str, str | Policy, str]] = {
    "a tree, topk": ("topk", "static", "plain"),
    "a tree, drawn": ("drawn", "static", "plain"),
    "a chain, drawn, warped": ("drawn", "chain", "warped"),
    "an adaptive tree, topk, warped": ("topk", Picky(), "warped"),
    "an adaptive tree, drawn, warped": ("drawn", Picky(), "warped"),
}


@pytest.mark.parametrize("name", CASES)
def test_texts_are_distributed_as_the_target_s_own(name: str) -> None:
    candidates, policy, kind = CASES[name]
    drawn, accepted = draw(world(kind), policy, right_choice(candidates), DRAWS)
    result = compare(drawn, world(kind).exact())
    assert result.p_value > 1e-3, result
    assert result.distance < 1.5 * result.by_chance, result
    assert accepted > 0.2, "a test in which nothing is accepted shows little"


ALL_AT_ONCE = [("topk", policy) for policy in POLICIES] + [
    ("drawn", policy) for policy in ("chain", "static:nodes=6", "sage-paper:nmax=6")
]


@pytest.mark.parametrize(("candidates", "policy"), ALL_AT_ONCE)
def test_many_texts_at_once_are_distributed_as_the_target_s_own(
    candidates: str, policy: str
) -> None:
    """Twenty thousand texts, by the engine run once for each way that chance goes."""
    small = random_world(3, 3, scale=1.3, processors=processors("warped")[:2])
    drawn, _ = draw_together(small, policy, right_choice(candidates), 20_000, seed=2)
    assert drawn.total() == 20_000
    result = compare(drawn, small.exact())
    assert result.p_value > 1e-3, result
    assert result.distance < 1.5 * result.by_chance, result


@pytest.mark.parametrize("policy", ["static:nodes=6", "sage"])
def test_branches_that_are_looked_up_change_no_odds(policy: str) -> None:
    small = random_world(3, 3, likeness=0.0, scale=1.3, processors=processors("warped")[:2])
    runs = [
        draw_together(small, policy, right_choice("topk"), 20_000, 2, lookup)
        for lookup in (None, Ngram())
    ]
    for drawn, _ in runs:
        result = compare(drawn, small.exact())
        assert drawn.total() == 20_000 and result.p_value > 1e-3, result
    assert runs[1][1] != runs[0][1], "other trees"


def test_the_comparisons_of_a_right_rule_add_up() -> None:
    def one(chi2: float, part: str = "tables", what: str = "topk, no warper") -> Comparison:
        return Comparison(part, what, "chain", 10, chi2, 4, 0.5, 0.1, 0.1, 1.0)

    found = together([one(1.0), one(5.0), one(90.0, "wrong on purpose"), one(2.0, what="drawn, x")])
    assert [(c.what, c.draws, c.chi2, c.freedom) for c in found] == [
        ("topk", 20, 6.0, 8), ("drawn", 10, 2.0, 4),
    ]  # fmt: skip
    assert found[0].p_value == pytest.approx(chi2_p_value(6.0, 8))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_found_out_at_once(name: str) -> None:
    policy: str | Policy = Picky(0.3, k=1) if "policy" in name else "static:nodes=6"
    small = random_world(3, 3, scale=1.3)
    drawn, _ = draw_together(small, policy, wrong_choice(name), 20_000, seed=2)
    assert compare(drawn, small.exact()).p_value < 1e-6


def test_a_wrong_rule_is_found_out_one_by_one() -> None:
    drawn, _ = draw(world("plain"), "static", wrong_choice("likeliest taken for drawn"), DRAWS)
    assert compare(drawn, world("plain").exact()).p_value < 1e-6


def test_a_candidate_is_accepted_as_often_as_it_should_be() -> None:
    """The one draw that the texts drawn at once replace in the rule: min(1, p / q)."""
    rule = RecursiveRejection(torch.Generator().manual_seed(0))
    for p, q in ((0.1, 0.4), (0.3, 0.4), (0.5, 0.4), (0.0, 0.4)):
        kept = sum(rule._accepts(p, q) for _ in range(4000)) / 4000
        assert kept == pytest.approx(min(1.0, p / q), abs=0.03)


def test_the_p_value_is_chi_squared_s() -> None:
    assert chi2_p_value(3.841, 1) == pytest.approx(0.05, abs=1e-4)
    assert chi2_p_value(124.342, 100) == pytest.approx(0.05, abs=1e-4)


def test_drawn_candidates_come_in_the_order_of_drawing_without_putting_back() -> None:
    """The first is distributed as q; the second, given the first, as q without it."""
    q = torch.tensor([0.5, 0.3, 0.15, 0.05])
    offer = Sampled(torch.Generator().manual_seed(0)).select(q.log().expand(20_000, 4), 2)
    first, second = offer.tokens.T
    assert np.bincount(first, minlength=4) / 20_000 == pytest.approx(q.numpy(), abs=0.012)
    after = np.bincount(second[first == 0], minlength=4) / (first == 0).sum()
    assert after == pytest.approx([0.0, 0.6, 0.3, 0.1], abs=0.015)
    assert (offer.expected == np.float32([0.5, 0.3])).all(), "a policy sees what is not drawn"
    assert offer.probs[0].tolist() == q[offer.tokens[0]].tolist()


def test_tokens_that_cannot_be_drawn_are_offered_last_and_as_impossible() -> None:
    scores = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]])
    offer = Sampled(torch.Generator().manual_seed(0)).select(scores, 4)
    assert set(offer.tokens[0, :2].tolist()) == {0, 2}
    assert offer.expected.tolist() == [[0.5, 0.5, 0.0, 0.0]]


def test_children_are_those_drawn_first_whatever_ranks_a_policy_names() -> None:
    offer = Sampled(torch.Generator().manual_seed(0)).select(torch.zeros(2, 9), 8)
    growth = Growth(np.array([1, 0, 1, 1]), np.array([7, 4, 0, 5]), np.ones(4, dtype=bool))
    assert offer.placed(growth).ranks.tolist() == [2, 0, 0, 1]
    plain = TopK().select(torch.zeros(2, 9), 8)
    assert plain.placed(growth) is growth


# Seeds, and `generate`'s own text.


def sampled(policy: str, seed: int | None, candidates: str = "topk", **options: Any) -> list[int]:
    target, draft = build_pair("qwen2_5_vl")
    inputs = make_inputs(target, "qwen2_5_vl", "image")
    decoder = SpeculativeDecoder(target, draft, policy, candidates=candidates)
    output = decoder.generate(**inputs, **FIGURES | {"max_new_tokens": 24} | options, seed=seed)
    return output.sequences[0].tolist()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_vl", "llama"])
def test_one_seed_gives_the_text_that_generate_gives(family: str, policy: str) -> None:
    """With candidates topk one number is drawn a token: the text is `generate`'s, id by id."""
    target, draft = build_pair(family)
    inputs = make_inputs(target, family, FAMILIES[family].kinds[-1], length=9)
    options = FIGURES | {"max_new_tokens": 24, "repetition_penalty": 1.1}
    torch.manual_seed(11)
    expected = target.generate(**inputs, **options)
    output = SpeculativeDecoder(target, draft, policy).generate(**inputs, **options, seed=11)
    assert torch.equal(output.sequences, expected)
    if policy in ("static", "sage"):
        assert output.stats.mean_accepted > 0.2, "a test in which nothing is accepted shows little"


@pytest.mark.parametrize("draft", ["ngram", "both"])
def test_drafts_that_are_looked_up_do_not_change_it(draft: str) -> None:
    target, model = build_pair("llama")
    inputs = make_inputs(target, "llama", "text", length=30)
    options = FIGURES | {"max_new_tokens": 40, "temperature": 0.3}
    torch.manual_seed(2)
    expected = target.generate(**inputs, **options)
    given = {"draft": "ngram"} if draft == "ngram" else {"draft": model, "lookup": "ngram"}
    output = SpeculativeDecoder(target, policy="static", **given).generate(
        **inputs, **options, seed=2
    )
    assert torch.equal(output.sequences, expected)
    assert any(len(step.tree) for step in output.steps)
    with pytest.raises(UnsupportedError, match="lookup"):
        SpeculativeDecoder(target, policy="static", candidates="drawn", **given)


def test_without_a_seed_torch_s_own_generator_is_drawn_from() -> None:
    build_pair("qwen2_5_vl")  # it seeds for itself
    torch.manual_seed(4)
    first = sampled("static", None)
    torch.manual_seed(4)
    assert sampled("chain", None) == first
    assert sampled("chain", None) != first


@pytest.mark.parametrize("policy", ["static", "sage-paper"])
def test_drawn_candidates_give_one_text_a_seed(policy: str) -> None:
    texts = [sampled(policy, seed, "drawn") for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]


def test_a_temperature_close_to_0_is_the_greedy_text() -> None:
    target, _ = build_pair("qwen2_5_vl")
    inputs = make_inputs(target, "qwen2_5_vl", "image")
    greedy = target.generate(**inputs, do_sample=False, max_new_tokens=24)[0].tolist()
    for candidates in ("topk", "drawn"):
        cold = {"temperature": 1e-4, "top_p": 1.0, "top_k": 0}
        assert sampled("static", 0, candidates, **cold) == greedy


@pytest.mark.parametrize("size", [120, 192])
def test_a_draft_of_another_vocabulary_size(size: int) -> None:
    target, draft = build_pair("llama")
    other = copy.deepcopy(draft)
    other.resize_token_embeddings(size, mean_resizing=False)
    inputs = make_inputs(target, "llama", "text")
    inputs["input_ids"] = inputs["input_ids"].clamp(max=119)
    for options in ({"do_sample": True}, FIGURES):
        decoder = SpeculativeDecoder(target, other, "static", candidates="drawn")
        output = decoder.generate(**inputs, **options, max_new_tokens=12, seed=0)
        assert output.stats.new_tokens == 12


def test_draws_do_not_touch_torch_s_own_generator() -> None:
    build_pair("qwen2_5_vl")
    before = torch.get_rng_state()
    sampled("static", 3, "drawn")
    assert torch.equal(torch.get_rng_state(), before)


# What is refused, and the pipeline.


def test_unknown_candidates_are_refused() -> None:
    target, draft = build_pair("llama")
    with pytest.raises(OptionError, match="topk, drawn"):
        SpeculativeDecoder(target, draft, candidates="best")


class _Pruning(Picky):
    name = "pruning"

    def planner(self) -> Any:
        planner = super().planner()
        kind = type("Pruner", (type(planner),), {"prune": lambda self, tree: tree})
        planner.__class__ = kind
        return planner


def test_drawn_candidates_may_not_be_dropped_again() -> None:
    target, draft = build_pair("llama")
    SpeculativeDecoder(target, draft, _Pruning())
    with pytest.raises(UnsupportedError, match=r"pruning drops nodes.*use candidates topk"):
        SpeculativeDecoder(target, draft, _Pruning(), candidates="drawn")


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return sage_core.load()


REQUESTS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "nothing": ({}, None),
    "greedy": ({"temperature": 0, "top_p": 0.5}, None),
    "greedy over figures": ({"sample": False, "temperature": 0.5}, None),
    "a temperature": ({"temperature": 1}, {"temperature": 1.0, "candidates": "topk"}),
    "figures": (
        {"top_p": 0.9, "top_k": 20, "min_p": 0.05, "candidates": "drawn", "policy": "static"},
        {"top_p": 0.9, "top_k": 20, "min_p": 0.05, "candidates": "drawn"},
    ),
    "the checkpoint's own": ({"sample": True}, {"candidates": "topk"}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_pipeline_samples_when_asked_to_and_says_how(name: str, pipeline: Any) -> None:
    options, told = REQUESTS[name]
    result = pipeline.ask([], "What is a circle?", max_new_tokens=6, **options)
    # What neither the caller nor the checkpoint sets has transformers' own default.
    defaults = {"temperature": 1.0, "top_k": 50}
    assert result.sampling == (None if told is None else defaults | told)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 2.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"candidates": "best"}, "candidates"),
    ],
)
def test_figures_that_make_no_sense_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        sage_core.Options(**options)

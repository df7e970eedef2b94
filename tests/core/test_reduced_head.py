"""Reduced draft vocabularies: unchanged texts, candidates of the vocabulary only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import sage_core
from sage_core.drafts.vocab.reduced_lm_head import ReducedHead, reduced_head
from sage_core.drafts.vocab.token_list import DraftVocab
from sage_core.engine.costs.keys import pass_key
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.errors import OptionError, UnsupportedError
from sage_core.generation.candidates import Candidates, Sampled
from sage_core.generation.speculative_sampling import RecursiveRejection, SamplingStrategy
from sage_core.runtime.cuda.executor import CudaGraphBackend
from sage_core.runtime.runner import Runner
from tests.core.replay_on_cpu import record
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.families import EOS, FIRST_WORD, VOCAB
from tests.tiny.oracle import check_steps, reference
from tests.tiny.tables import Picky, compare, draw, random_world, rows_of

POLICIES = ("chain", "static", "optimal-static", "eagle2", "spec-llava", "sage-paper", "sage")
HALF = tuple(range(FIRST_WORD, VOCAB, 2))
NEW = {"max_new_tokens": 24}


def assert_exact(
    decoder: SpeculativeDecoder,
    inputs: dict[str, Any],
    reuse: PrefixReuse | None = None,
    **options: Any,
) -> Any:
    expected = reference(decoder.target, inputs, **options)
    output = decoder.generate(**inputs, **options, reuse=reuse)
    assert torch.equal(output.sequences, expected)
    check_steps(output.steps, expected[0, inputs["input_ids"].shape[1] :].tolist())
    return output


def drafted(output: Any) -> set[int]:
    return {token for step in output.steps for token in step.tree.tokens}


CASES = [*((family, "sage") for family in FAMILIES), *(("qwen3_vl", p) for p in POLICIES[:-1])]


@pytest.mark.parametrize(("family", "policy"), CASES)
def test_every_policy_and_every_family(family: str, policy: str) -> None:
    target, draft = build_pair(family)
    inputs = make_inputs(target, family, FAMILIES[family].kinds[-1], length=9)
    decoder = SpeculativeDecoder(target, draft, policy, draft_vocab=HALF)
    output = assert_exact(decoder, inputs, **NEW)
    assert drafted(output) and drafted(output) <= {*HALF, EOS}


def test_tokens_of_the_vocabulary_are_accepted() -> None:
    """The tokens that a text needs, and no others, lose nothing."""
    target, draft = build_pair("qwen2_5_vl")
    inputs = make_inputs(target, "qwen2_5_vl", "image")
    prompt = inputs["input_ids"].shape[1]
    words = sorted(set(reference(target, inputs, **NEW)[0, prompt:].tolist()))
    whole = assert_exact(SpeculativeDecoder(target, draft, "static"), inputs, **NEW)
    few = assert_exact(
        SpeculativeDecoder(target, draft, "static", draft_vocab=words), inputs, **NEW
    )
    assert few.stats.mean_accepted >= whole.stats.mean_accepted > 0.5


def test_the_whole_vocabulary_in_another_order_gives_the_same_trees() -> None:
    target, draft = build_pair("llama")
    inputs = make_inputs(target, "llama", "text")
    every = DraftVocab(tuple(reversed(range(VOCAB))))
    runs = [
        SpeculativeDecoder(target, draft, "eagle2", draft_vocab=vocab).generate(**inputs, **NEW)
        for vocab in (None, every)
    ]
    first, second = ([(s.tree.tokens, s.tree.parents, s.accepted) for s in r.steps] for r in runs)
    assert first == second


RULES: dict[str, dict[str, Any]] = {
    "repetition penalty": {"repetition_penalty": 1.3},
    "repetition bonus": {"repetition_penalty": 0.8},
    "no repeated pair": {"no_repeat_ngram_size": 2},
    "bias": {"sequence_bias": [[[9], 4.0], [[10], -4.0]]},
    "all of the part forbidden": {"suppress_tokens": [*HALF, EOS]},
    # The scores of an end that the draft does not score: -inf - -inf.
    "an end that is not in the part": {
        "eos_token_id": [9, 11],
        "exponential_decay_length_penalty": (2, 1.4),
    },
    "an end within": {"eos_token_id": list(HALF[::5])},
    "invalid values removed": {"remove_invalid_values": True, "renormalize_logits": True},
    "a forced end": {"forced_eos_token_id": EOS},
}


@pytest.mark.parametrize("policy", ["static", "sage", "eagle2"])
@pytest.mark.parametrize("name", RULES)
def test_processors_get_token_ids(name: str, policy: str) -> None:
    target, draft = build_pair("qwen2_vl")
    inputs = make_inputs(target, "qwen2_vl", "image")
    decoder = SpeculativeDecoder(target, draft, policy, draft_vocab=HALF)
    output = assert_exact(decoder, inputs, **NEW, **RULES[name])
    if "forbidden" in name:
        assert not drafted(output), "what is impossible is not drafted"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_seed_has_the_text_of_generate(policy: str) -> None:
    target, draft = build_pair("llava")
    inputs = make_inputs(target, "llava", "image")
    options = {**NEW, "do_sample": True, "temperature": 0.8, "top_k": 30, "top_p": 0.9}
    torch.manual_seed(11)
    expected = target.generate(**inputs, **options)
    decoder = SpeculativeDecoder(target, draft, policy, draft_vocab=HALF)
    output = decoder.generate(**inputs, **options, seed=11)
    assert torch.equal(output.sequences, expected)


# Candidates that are drawn, against exact enumeration.

PART = (0, 2, 3)


def drawing(seed: int = 5) -> SamplingStrategy:
    first, second = (torch.Generator().manual_seed(seed + i) for i in range(2))
    return SamplingStrategy(RecursiveRejection(first), Sampled(second))


@pytest.mark.parametrize("policy", ["static", Picky()])
def test_drawn_texts_are_distributed_as_the_target_s_own(policy: Any) -> None:
    world = random_world(3, scale=1.3, end=3)
    texts, accepted = draw(world, policy, drawing(), 1000, rows_of(4, PART))
    result = compare(texts, world.exact())
    assert result.p_value > 1e-3, result
    assert accepted > 0.2, "a test in which nothing is accepted shows little"


class LeftInPart(ReducedHead):
    """Forgets that the target's distribution has the other tokens too."""

    def to_token_ids(self, offer: Candidates, vocabulary: int) -> Candidates:
        return replace(super().to_token_ids(offer, vocabulary), draft=offer.draft)


def test_a_distribution_by_row_is_detected() -> None:
    world = random_world(3, scale=1.3, end=3)
    right = rows_of(4, PART)
    wrong = LeftInPart(right.ids, right.weight, right.bias, right.tokens)
    texts, _ = draw(world, "static", drawing(), 1500, wrong)
    assert compare(texts, world.exact()).p_value < 1e-6


@pytest.mark.parametrize("policy", ["static", "chain"])
def test_drawn_candidates_on_models(policy: str) -> None:
    target, draft = build_pair("llama")
    inputs = make_inputs(target, "llama", "text")
    decoder = SpeculativeDecoder(target, draft, policy, candidates="drawn", draft_vocab=HALF)
    for more in ({}, {"top_k": 8}, {"suppress_tokens": [*HALF, EOS]}):
        output = decoder.generate(**inputs, **NEW, do_sample=True, seed=3, **more)
        assert drafted(output) <= {*HALF, EOS}
        assert bool(drafted(output)) == ("suppress_tokens" not in more)


# The head itself, and where it runs.


@pytest.mark.parametrize("bias", [False, True])
def test_logits_are_those_of_the_model_s_head(bias: bool) -> None:
    model = build_pair("llama").draft
    own = torch.nn.Linear(64, VOCAB, bias=bias)

    class Biased:
        def get_output_embeddings(self) -> torch.nn.Module:
            return own

    hidden = torch.randn(5, 64)
    for one, whole in ((Biased(), own), (model, model.lm_head)):
        head = ReducedHead.of(one, [90, 3, 12, 3])
        assert head.ids.tolist() == [3, 12, 90] and len(head) == 3
        torch.testing.assert_close(head(hidden), whole(hidden)[:, [3, 12, 90]])
        assert head.weight.is_contiguous()
        assert head.weight.data_ptr() != whole.weight.data_ptr()


def test_the_models_are_unchanged() -> None:
    target, draft = build_pair("llama")
    before = {name: value.clone() for name, value in draft.state_dict().items()}
    attributes = set(vars(draft)), set(vars(draft.lm_head))
    inputs = make_inputs(target, "llama", "text")
    SpeculativeDecoder(target, draft, draft_vocab=HALF).generate(**inputs, **NEW)
    assert (set(vars(draft)), set(vars(draft.lm_head))) == attributes
    assert all(torch.equal(value, before[name]) for name, value in draft.state_dict().items())


def test_end_tokens_are_always_included_and_unknown_ids_never() -> None:
    target, draft = build_pair("llama")
    assert reduced_head(target, draft, [9]).tokens.tolist() == [EOS, 9]

    class Shorter:
        def get_output_embeddings(self) -> torch.nn.Module:
            return torch.nn.Linear(4, 100)

    assert reduced_head(target, Shorter(), [9, 120]).tokens.tolist() == [EOS, 9]


def test_invalid_vocabularies_are_refused() -> None:
    target, draft = build_pair("llama")
    with pytest.raises(OptionError, match="token 160, and the target has only 160"):
        SpeculativeDecoder(target, draft, draft_vocab=[9, 160])
    with pytest.raises(OptionError, match="draft_vocab needs a draft model"):
        SpeculativeDecoder(target, None, "autoregressive", draft_vocab=[9])
    with pytest.raises(OptionError, match="draft_vocab needs a draft model"):
        SpeculativeDecoder(target, "ngram", draft_vocab=[9])

    class Packed(torch.nn.Module):
        weight = torch.zeros(4, 4, dtype=torch.uint8)

    class Quantized:
        def get_output_embeddings(self) -> torch.nn.Module:
            return Packed()

    with pytest.raises(UnsupportedError, match="Packed"):
        ReducedHead.of(Quantized(), [1])


def test_captured_passes_with_several_heads_in_turn() -> None:
    target, draft = build_pair("qwen2_5_vl")
    inputs = make_inputs(target, "qwen2_5_vl", "image")
    runners = CudaGraphBackend(capture=record, kernel=False)
    for vocab in (None, HALF, None, HALF[:30]):
        decoder = SpeculativeDecoder(target, draft, "static", backend=runners, draft_vocab=vocab)
        output = assert_exact(decoder, inputs, **NEW)
        assert vocab is None or drafted(output) <= {*vocab, EOS}
        captures = len(runners.records)
        assert_exact(decoder, inputs, **NEW)
        assert len(runners.records) == captures, "the next text replays what was captured"
    assert runners.notes == ()


def test_with_prefix_reuse_and_lookup() -> None:
    target, draft = build_pair("llava_onevision")
    inputs = make_inputs(target, "llava_onevision", "image", length=12)
    decoder = SpeculativeDecoder(target, draft, "chain", lookup="ngram", draft_vocab=HALF)
    reuse = PrefixReuse()
    for more in range(3):
        output = assert_exact(decoder, inputs, reuse=reuse, max_new_tokens=16)
        asked = torch.tensor([[9 + more, 11, 12]])
        longer = torch.cat([output.sequences, asked], dim=1)
        inputs = inputs | {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
    assert reuse.reused > 0


def test_within_generate() -> None:
    target, draft = build_pair("llava")
    inputs = make_inputs(target, "llava", "image")
    decoding = {"custom_generate": sage_core.custom_generate, "draft_model": draft}
    got = target.generate(**inputs, **NEW, **decoding, draft_vocab=HALF)
    assert torch.equal(got, reference(target, inputs, **NEW))
    with pytest.raises(OptionError, match="has only 160"):
        target.generate(**inputs, **NEW, **decoding, draft_vocab=[999])


def test_costs_have_their_own_key() -> None:
    target, draft = build_pair("llama")
    runner = Runner(target)
    keys = {
        pass_key(SpeculativeDecoder(target, draft, draft_vocab=vocab).settings, runner)
        for vocab in (None, HALF, HALF[:9])
    }
    assert len(keys) == 3

"""Generation settings are followed as `generate` follows them, or refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf

from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import OptionError, UnsupportedError
from sage_core.trees.policies import parse
from tests.core.test_exactness import assert_exact
from tests.tiny import build_pair, make_inputs
from tests.tiny.letters import Letters
from tests.tiny.oracle import reference

POLICIES = ("autoregressive", "static", "sage")
FAMILY = "qwen2_5_vl"
KIND = "image"

GREEDY: dict[str, Any] = {"max_new_tokens": 48}
SETTINGS: dict[str, Callable[[list[int]], dict[str, Any]]] = {
    # Each gets the plain greedy tokens, so that it can ask for what really bites.
    "repetition penalty": lambda greedy: {"repetition_penalty": 1.3},
    "repetition bonus": lambda greedy: {"repetition_penalty": 0.8},
    "no repeated pair": lambda greedy: {"no_repeat_ngram_size": 2},
    "no repeated token": lambda greedy: {"no_repeat_ngram_size": 1},
    "suppressed tokens": lambda greedy: {"suppress_tokens": [*greedy[:4], greedy[9]]},
    "suppressed at the beginning": lambda greedy: {"begin_suppress_tokens": greedy[:1]},
    "bad word": lambda greedy: {"bad_words_ids": [greedy[5:6]]},
    "bad words of several tokens": lambda greedy: {
        "bad_words_ids": [greedy[3:5], greedy[10:13], greedy[20:22]]
    },
    "sequence bias": lambda greedy: {
        "sequence_bias": [[greedy[2:3], -8.0], [greedy[6:8], -8.0], [[99], 2.0]]
    },
    "forced end": lambda greedy: {"forced_eos_token_id": 2},
    "an end": lambda greedy: {"eos_token_id": greedy[17]},
    "an end at the first token": lambda greedy: {"eos_token_id": greedy[0]},
    "several ends": lambda greedy: {"eos_token_id": [150, greedy[23], greedy[11], 151]},
    "minimum length": lambda greedy: {"eos_token_id": greedy[3], "min_new_tokens": 19},
    "minimum total length": lambda greedy: {"eos_token_id": greedy[3], "min_length": 40},
    "decaying length penalty": lambda greedy: {
        "eos_token_id": greedy[9],
        "exponential_decay_length_penalty": (8, 1.4),
    },
    "everything at once": lambda greedy: {
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "suppress_tokens": greedy[2:4],
        "bad_words_ids": [greedy[7:9]],
        "eos_token_id": [greedy[30], 150],
        "min_new_tokens": 10,
    },
    "a total length": lambda greedy: {"max_new_tokens": None, "max_length": 41},
    "renormalised": lambda greedy: {"renormalize_logits": True, "repetition_penalty": 1.1},
    "not a number removed": lambda greedy: {"remove_invalid_values": True},
    "sampling figures that greedy ignores": lambda greedy: {"temperature": 0.3, "top_k": 3},
    "all the time in the world": lambda greedy: {"max_time": 3600.0},
}


@pytest.fixture(scope="module")
def greedy() -> list[int]:
    """The plain greedy text on which settings are made to bite."""
    target, _ = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    return reference(target, inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_followed(name: str, policy: str, greedy: list[int]) -> None:
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    options = {k: v for k, v in (GREEDY | SETTINGS[name](greedy)).items() if v is not None}
    assert_exact(target, draft, policy, inputs, **options)


INERT = {
    "not a number removed",
    "sampling figures that greedy ignores",
    "all the time in the world",
}


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in INERT])
def test_the_settings_tested_do_change_the_text(name: str, greedy: list[int]) -> None:
    target, _ = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    options = {k: v for k, v in (GREEDY | SETTINGS[name](greedy)).items() if v is not None}
    text = reference(target, inputs, **options)[0, inputs["input_ids"].shape[1] :].tolist()
    assert text != greedy


@pytest.mark.parametrize("policy", ["static", "sage"])
def test_an_end_inside_an_accepted_path_drops_the_rest_of_it(policy: str) -> None:
    """For every node that a run accepts: end the text exactly there."""
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    plain = SpeculativeDecoder(target, draft, policy).generate(**inputs, **GREEDY)
    inside = {t for step in plain.steps for t in step.tokens[:-1]}
    assert len(inside) >= 3
    ended_on_path = 0
    for token in sorted(inside):
        output = assert_exact(target, draft, policy, inputs, eos_token_id=token, **GREEDY)
        assert output.finish_reason == "eos"
        last = output.steps[-1]
        ended_on_path += len(last.accepted) == len(last.tokens)
    assert ended_on_path, "no end fell on a path"


@pytest.mark.parametrize("policy", ["chain", "sage"])
def test_every_limit_is_met_exactly(policy: str) -> None:
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    for new in range(1, 15):
        output = assert_exact(target, draft, policy, inputs, max_new_tokens=new)
        assert (output.stats.new_tokens, output.finish_reason) == (new, "length")


@pytest.mark.parametrize("policy", POLICIES)
def test_stop_strings(policy: str, greedy: list[int]) -> None:
    """A stop string over the border of two tokens, in the middle of the text."""
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    tokenizer = Letters(160)
    words = "".join(tokenizer.convert_ids_to_tokens(greedy[20:22]))
    output = assert_exact(
        target,
        draft,
        policy,
        inputs,
        stop_strings=["never!", words[1:3]],
        tokenizer=tokenizer,
        **GREEDY,
    )
    assert output.finish_reason == "stop"
    assert output.stats.new_tokens < 48


@pytest.mark.parametrize("policy", POLICIES)
def test_a_generation_config_object(policy: str, greedy: list[int]) -> None:
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    config = tf.GenerationConfig(
        max_new_tokens=33, repetition_penalty=1.2, eos_token_id=[greedy[20], 2], pad_token_id=0
    )
    before = config.to_dict()
    expected = reference(target, inputs, generation_config=config)
    output = SpeculativeDecoder(target, draft, policy).generate(**inputs, generation_config=config)
    assert torch.equal(output.sequences, expected)
    assert config.to_dict() == before, "the caller's object stays as it was"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("sampling", [False, True], ids=["greedy", "sampling"])
def test_the_checkpoint_s_own_config(policy: str, sampling: bool, greedy: list[int]) -> None:
    """As Qwen2.5-VL ships: a repetition penalty, two ends, and perhaps sampling by default."""
    target, draft = build_pair(FAMILY)
    target = copy.deepcopy(target)
    target.generation_config.update(
        repetition_penalty=1.25, eos_token_id=[150, greedy[12]], max_new_tokens=37
    )
    if sampling:
        target.generation_config.update(do_sample=True, temperature=0.7, top_p=0.8, top_k=20)
    inputs = make_inputs(target, FAMILY, KIND)
    before = target.generation_config.to_dict()
    output = assert_exact(target, draft, policy, inputs)
    assert output.sequences[0, inputs["input_ids"].shape[1] :].tolist() != greedy
    assert target.generation_config.to_dict() == before


@pytest.mark.parametrize("policy", ["autoregressive", "sage"])
def test_the_caller_s_own_processors_and_criteria(policy: str) -> None:
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)

    def no_neighbours(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """A rule that depends on the row's own last token."""
        scores = scores.clone()
        for row, last in enumerate(ids[:, -1].tolist()):
            scores[row, max(0, last - 20) : last + 20] = -float("inf")
        return scores

    def stop(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return (ids[:, -1] % 31 == 5) & torch.tensor(ids.shape[1] > 30)

    assert_exact(
        target,
        draft,
        policy,
        inputs,
        logits_processor=tf.LogitsProcessorList([no_neighbours]),
        stopping_criteria=tf.StoppingCriteriaList([stop]),
        **GREEDY,
    )


@pytest.mark.parametrize("policy", ["chain", "static", "sage"])
def test_a_rule_that_leaves_one_choice(policy: str) -> None:
    """Fewer allowed tokens than the tree has branches: the rest must not be drafted blindly."""
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    assert_exact(
        target,
        draft,
        policy,
        inputs,
        prefix_allowed_tokens_fn=lambda batch, ids: [8 + (len(ids) * 7) % 150, 9],
        **GREEDY,
    )


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "beams": ("num_beams", {"num_beams": 2}),
    "several texts": ("num_return_sequences", {"num_return_sequences": 2}),
    "guidance": ("guidance_scale", {"guidance_scale": 2.0}),
    "prompt lookup": ("prompt_lookup_num_tokens", {"prompt_lookup_num_tokens": 3}),
    "a streamer": ("streamer", {"streamer": tf.TextStreamer(None)}),
    "attentions": ("output_attentions", {"output_attentions": True}),
    "hidden states": (
        "output_hidden_states",
        {"output_hidden_states": True, "return_dict_in_generate": True},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(name: str) -> None:
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    field, options = REFUSED[name]
    with pytest.raises(UnsupportedError) as caught:
        SpeculativeDecoder(target, draft, "sage").generate(**inputs, **GREEDY, **options)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_draft_s_own_config_has_no_say(recwarn: pytest.WarningsRecorder) -> None:
    """Whatever a draft's checkpoint sets, the text is the target's and nothing is said."""
    target, draft = build_pair(FAMILY)
    draft = copy.deepcopy(draft)
    draft.generation_config.update(
        max_length=10, do_sample=True, num_beams=4, repetition_penalty=1.5, eos_token_id=9
    )
    inputs = make_inputs(target, FAMILY, KIND, length=30)
    assert_exact(target, draft, "sage", inputs, **GREEDY)
    assert not [str(w.message) for w in recwarn if "max_length" in str(w.message)]


def test_a_target_limit_beyond_the_draft_s_is_no_trouble(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """A target whose own config sets the length: the draft's default must not interfere."""
    target, draft = build_pair(FAMILY)
    target = copy.deepcopy(target)
    target.generation_config.max_new_tokens = 30
    inputs = make_inputs(target, FAMILY, KIND, length=60)
    assert_exact(target, draft, "chain", inputs)
    assert not [str(w.message) for w in recwarn if "max_length" in str(w.message)]


def test_an_assistant_model_is_refused_by_name() -> None:
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    with pytest.raises(UnsupportedError, match="assistant_model"):
        SpeculativeDecoder(target, draft).generate(**inputs, **GREEDY, assistant_model=draft)


def test_a_sampling_config_object_is_followed() -> None:
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    config = tf.GenerationConfig(do_sample=True, temperature=0.7, top_k=9, max_new_tokens=20)
    torch.manual_seed(8)
    expected = target.generate(**inputs, generation_config=config)
    output = SpeculativeDecoder(target, draft).generate(**inputs, generation_config=config, seed=8)
    assert torch.equal(output.sequences, expected)


def test_an_allowed_tokens_function_is_told_of_one_prompt() -> None:
    """Drafted paths are rows of one text, not texts of a batch; and none goes on behind an end."""
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    told = set()

    def allowed(batch: int, ids: torch.Tensor) -> list[int]:
        told.add(batch)
        assert 2 not in ids[inputs["input_ids"].shape[1] :].tolist(), "asked behind the end"
        return [2] if len(ids) % 16 == 0 else [9 + (len(ids) * 5) % 100, 30, 31]

    options = {"prefix_allowed_tokens_fn": allowed, "eos_token_id": 2}
    output = assert_exact(target, draft, "static", inputs, **options, **GREEDY)
    assert output.finish_reason == "eos" and told == {0}


def test_a_batch_is_refused() -> None:
    target, draft = build_pair("llama")
    ids = make_inputs(target, "llama", "text")["input_ids"].repeat(2, 1)
    with pytest.raises(UnsupportedError, match="2 prompts"):
        SpeculativeDecoder(target, draft).generate(input_ids=ids, **GREEDY)


def test_padding_is_refused() -> None:
    target, draft = build_pair("llama")
    ids = make_inputs(target, "llama", "text")["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    with pytest.raises(UnsupportedError, match="padded"):
        SpeculativeDecoder(target, draft).generate(input_ids=ids, attention_mask=mask, **GREEDY)


def test_a_drafting_policy_needs_a_draft() -> None:
    target, _ = build_pair("llama")
    with pytest.raises(OptionError, match="sage"):
        SpeculativeDecoder(target, policy="sage")
    assert SpeculativeDecoder(target).policy == parse("autoregressive")
    assert_exact(target, None, "autoregressive", make_inputs(target, "llama", "text"), **GREEDY)

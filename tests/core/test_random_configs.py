"""Any generation config: the engine's text is `generate`'s, id by id, greedy and sampled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from hypothesis import given, note, settings
from hypothesis import strategies as st

from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import OptionError
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.families import FIRST_WORD, VOCAB
from tests.tiny.letters import Letters

pytestmark = pytest.mark.filterwarnings("ignore:Unfeasible length constraints")

POLICIES = ("autoregressive", "chain", "static", "eagle2", "sage-paper", "sage")
LETTERS = Letters(VOCAB)

words = st.integers(FIRST_WORD, VOCAB - 1)
sequences = st.lists(words, min_size=1, max_size=3)
penalties = st.sampled_from([0.8, 1.05, 1.2, 1.5])

RULES: dict[str, st.SearchStrategy[Any]] = {
    "repetition_penalty": penalties,
    "encoder_repetition_penalty": penalties,
    "no_repeat_ngram_size": st.integers(1, 4),
    "encoder_no_repeat_ngram_size": st.integers(1, 3),
    "bad_words_ids": st.lists(sequences, min_size=1, max_size=4),
    "sequence_bias": st.lists(
        st.tuples(sequences, st.sampled_from([-9.0, -2.0, 3.0])).map(list),
        min_size=1,
        max_size=3,
        unique_by=lambda pair: tuple(pair[0]),
    ),
    "suppress_tokens": st.lists(words, min_size=1, max_size=40),
    "begin_suppress_tokens": st.lists(words, min_size=1, max_size=40),
    "eos_token_id": st.lists(words, min_size=1, max_size=60, unique=True),
    "min_new_tokens": st.integers(1, 20),
    "min_length": st.integers(1, 60),
    "forced_eos_token_id": words,
    "exponential_decay_length_penalty": st.tuples(st.integers(1, 8), st.sampled_from([1.1, 1.6])),
    "renormalize_logits": st.just(True),
    "remove_invalid_values": st.just(True),
    "watermarking_config": st.builds(
        tf.WatermarkingConfig,
        bias=st.sampled_from([1.0, 4.0]),
        seeding_scheme=st.sampled_from(["lefthash", "selfhash"]),
    ),
    "stop_strings": st.lists(st.text("abcdefg", min_size=1, max_size=3), min_size=1, max_size=3),
}
FIGURES: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0.2, 0.7, 1.0, 1.5]),
    "top_k": st.sampled_from([0, 1, 5, 20]),
    "top_p": st.sampled_from([0.3, 0.8, 1.0]),
    "min_p": st.sampled_from([0.0, 0.05, 0.3]),
    "typical_p": st.sampled_from([0.4, 0.9]),
    "epsilon_cutoff": st.sampled_from([0.01, 0.1]),
    "eta_cutoff": st.sampled_from([0.01, 0.1]),
    "top_h": st.sampled_from([0.3, 0.6]),
}


def some_of(fields: dict[str, st.SearchStrategy[Any]], most: int) -> st.SearchStrategy[Any]:
    """Up to ``most`` of the fields, with values."""
    names = st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=most)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({n: fields[n] for n in chosen}))


@st.composite
def prompts(draw: st.DrawFn) -> tuple[str, str, int]:
    """A family, a kind of prompt that it takes, and a number of words."""
    family = draw(st.sampled_from(sorted(FAMILIES)))
    return family, draw(st.sampled_from(FAMILIES[family].kinds)), draw(st.integers(0, 20))


def check(
    prompt: tuple[str, str, int], policy: str, options: dict[str, Any], seed: int | None
) -> None:
    family, kind, length = prompt
    target, draft = build_pair(family)
    inputs = make_inputs(target, family, kind, length=length)
    if "stop_strings" in options:
        options = {**options, "tokenizer": LETTERS}
    torch.manual_seed(seed or 0)
    refused = ""
    try:
        expected = target.generate(**inputs, **options)
    except ValueError as error:
        refused = str(error)
    decoder = SpeculativeDecoder(target, draft, policy)
    try:
        output = decoder.generate(**inputs, **options, seed=seed)
    except OptionError as error:
        assert refused, f"generate takes what is refused here: {error}"
        return
    assert not refused, f"generate refuses what is taken here: {refused}"
    note(f"expected {expected[0].tolist()}, got {output.sequences[0].tolist()}")
    assert torch.equal(output.sequences, expected)


@settings(max_examples=50)
@given(
    prompt=prompts(),
    policy=st.sampled_from(POLICIES),
    rules=some_of(RULES, 5),
    new=st.integers(1, 20),
)
def test_greedy(prompt: tuple[str, str, int], policy: str, rules: dict[str, Any], new: int) -> None:
    check(prompt, policy, {"do_sample": False, "max_new_tokens": new, **rules}, None)


@settings(max_examples=50)
@given(
    prompt=prompts(),
    policy=st.sampled_from(POLICIES),
    rules=some_of(RULES, 3),
    figures=some_of(FIGURES, 4),
    new=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_sampled(
    prompt: tuple[str, str, int],
    policy: str,
    rules: dict[str, Any],
    figures: dict[str, Any],
    new: int,
    seed: int,
) -> None:
    options = {"do_sample": True, "max_new_tokens": new, **rules, **figures}
    check(prompt, policy, options, seed)

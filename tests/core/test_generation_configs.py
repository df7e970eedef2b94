"""Checkpoints' generation configs: followed as `generate` follows them, or refused."""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, WatermarkingConfig

import sage_core
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import OptionError
from tests.core.saved_families import SAVED, picture, save_pair
from tests.tiny import build_pair, make_inputs
from tests.tiny.oracle import reference

DOCS = Path(__file__).parents[2] / "docs" / "generation-config.md"
FAMILY, KIND, NEW = "qwen2_5_vl", "image", 24

# Published defaults, ends left out: the tiny checkpoints have ends of their own.
QWEN_INSTRUCT = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
PUBLISHED: dict[str, dict[str, Any]] = {
    "llava": {},
    "llava_onevision": QWEN_INSTRUCT | {"repetition_penalty": 1.1},
    "qwen2_vl": {"do_sample": True, "temperature": 0.01, "top_p": 0.001, "top_k": 1},
    "qwen2_5_vl": {"do_sample": True, "temperature": 1e-6, "repetition_penalty": 1.05},
    "qwen3_vl": QWEN_INSTRUCT | {"repetition_penalty": 1.0},
    "qwen3_vl_moe": QWEN_INSTRUCT | {"repetition_penalty": 1.0},
    "llama": {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
    "qwen2": QWEN_INSTRUCT | {"repetition_penalty": 1.05},
    "qwen3": {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20},
}


@pytest.mark.parametrize("name", SAVED)
def test_published_defaults(name: str, tmp_path: Path) -> None:
    """From a saved checkpoint to text: greedy, with its penalties and all of its ends."""
    pipeline = sage_core.load(save_pair(tmp_path, name, **PUBLISHED[name]))
    target, family = pipeline._pair.target, pipeline._pair.family
    kept = target.generation_config.to_dict()
    assert all(kept[field] == value for field, value in PUBLISHED[name].items())
    media = [picture()] if family.placeholders else []
    inputs = family.prepare(media, "What is this?")
    prompt = inputs["input_ids"].shape[1]

    def theirs(**options: Any) -> list[int]:
        whole = target.generate(**inputs, do_sample=False, max_new_tokens=NEW, **options)
        return whole[0, prompt:].tolist()

    plain = theirs()
    assert list(pipeline.ask(media, "What is this?", max_new_tokens=NEW).tokens) == plain
    # Every token that ends a text does so; the checkpoint's list may be longer than the template's.
    ends = [*SAVED[name].ends, plain[5]]
    target.generation_config.eos_token_id = ends
    result = pipeline.ask(media, "What is this?", max_new_tokens=NEW)
    assert list(result.tokens) == theirs()
    assert result.finish_reason == "eos"
    if "do_sample" in PUBLISHED[name]:  # as `generate` does by itself
        torch.manual_seed(3)
        whole = target.generate(**inputs, max_new_tokens=NEW)
        options = {"max_new_tokens": NEW, "sample": True, "seed": 3}
        sampled = pipeline.ask(media, "What is this?", **options)
        assert list(sampled.tokens) == whole[0, prompt:].tolist()
        figures = PUBLISHED[name].items() - {("do_sample", True)}
        told = sampled.sampling or {}
        assert all(told[key] == value for key, value in figures if not key.endswith("penalty"))


@lru_cache(maxsize=1)
def greedy() -> tuple[list[int], int]:
    """The plain greedy text, and the length of its prompt."""
    target, _ = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    prompt = inputs["input_ids"].shape[1]
    return reference(target, inputs, max_new_tokens=NEW)[0, prompt:].tolist(), prompt


def followed(text: list[int], prompt: int) -> dict[str, dict[str, Any]]:
    """By field: settings that make the field change that text."""
    end = {"eos_token_id": text[2]}
    return {
        "repetition_penalty": {"repetition_penalty": 1.3},
        "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.5},
        "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
        "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
        "bad_words_ids": {"bad_words_ids": [[text[3]]]},
        "sequence_bias": {"sequence_bias": [[[text[4]], -9.0]]},
        "suppress_tokens": {"suppress_tokens": [text[2]]},
        "begin_suppress_tokens": {"begin_suppress_tokens": [text[0]]},
        "eos_token_id": {"eos_token_id": [text[9], text[5]]},
        "forced_eos_token_id": {"forced_eos_token_id": 2},
        "exponential_decay_length_penalty": {
            "eos_token_id": text[20],
            "exponential_decay_length_penalty": (1, 2.0),
        },
        "min_length": end | {"min_length": prompt + 10},
        "min_new_tokens": end | {"min_new_tokens": 12},
        "max_length": {"max_length": prompt + 9, "max_new_tokens": None},
        "max_new_tokens": {"max_new_tokens": 7},
        "renormalize_logits": {"renormalize_logits": True, "repetition_penalty": 1.3},
        # Nothing to bite on: no prompt of one token, a sound model, all the time in the world.
        "forced_bos_token_id": {"forced_bos_token_id": 9},
        "remove_invalid_values": {"remove_invalid_values": True},
        "max_time": {"max_time": 1000.0},
        # What they are about comes back beside the ids.
        "output_scores": {"output_scores": True},
        "output_logits": {"output_logits": True},
        "watermarking_config": {"watermarking_config": WatermarkingConfig(bias=6.0)},
    }


FOLLOWED = tuple(followed([0] * NEW, 0))
INERT = {
    "forced_bos_token_id",
    "remove_invalid_values",
    "max_time",
    "output_scores",
    "output_logits",
}
SAMPLED: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.5,
    "top_p": 0.6,
    "top_k": 5,
    "top_h": 0.4,
    "min_p": 0.2,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.05,
    "eta_cutoff": 0.2,
}
"""Of a checkpoint: figures of a text that the caller wants sampled, without effect on any other."""
WITHOUT_EFFECT: dict[str, Any] = {
    "bos_token_id": 5,
    "pad_token_id": 7,
    "decoder_start_token_id": 9,
    "num_beam_groups": 2,
    "diversity_penalty": 0.5,
    "length_penalty": 2.0,
    "early_stopping": True,
    "low_memory": True,
    "max_matching_ngram_size": 3,
    "num_assistant_tokens": 7,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.6,
    "assistant_lookbehind": 3,
    "target_lookbehind": 3,
    "assistant_ensemble_weight": 0.5,
    "speculation_type": "other",
    "use_cache": False,
    "cache_implementation": "static",
    "cache_config": {},
    "max_cache_len": 500,
    "compile_config": None,
    "disable_compile": True,
    "continuous_batching_config": None,
    "return_dict_in_generate": True,
    "transformers_version": "5.17.0",
}
REFUSED: dict[str, Any] = {
    "num_beams": 2,
    "num_return_sequences": 2,
    "constraints": [1],
    "force_words_ids": [[[9]]],
    "penalty_alpha": 0.5,
    "dola_layers": "low",
    "guidance_scale": 2.0,
    "token_healing": True,
    "prompt_lookup_num_tokens": 3,
    "use_mtp": True,
    "assistant_early_exit": 1,
    "is_assistant": True,
    "prefill_chunk_size": 4,
    "output_attentions": True,
    "output_hidden_states": True,
    "stop_strings": ["a"],
}


def checkpoint(**fields: Any) -> Any:
    """The tiny target with these fields in its own generation config."""
    target = copy.copy(build_pair(FAMILY).target)
    target.generation_config = copy.deepcopy(target.generation_config)
    for name, value in ({"max_new_tokens": NEW} | fields).items():
        setattr(target.generation_config, name, value)
    return target


def texts(target: Any) -> tuple[list[int], list[int]]:
    """transformers' own text, and the engine's."""
    inputs = make_inputs(target, FAMILY, KIND)
    whole = target.generate(**inputs, do_sample=False)
    theirs = getattr(whole, "sequences", whole)
    ours = SpeculativeDecoder(target, build_pair(FAMILY).draft).generate(**inputs).sequences
    prompt = greedy()[1]
    return theirs[0, prompt:].tolist(), ours[0, prompt:].tolist()


@pytest.mark.parametrize("field", FOLLOWED)
def test_a_field_that_is_followed(field: str) -> None:
    settings = followed(*greedy())[field]
    theirs, ours = texts(checkpoint(**settings))
    assert ours == theirs
    without = {name: value for name, value in settings.items() if name != field}
    if field == "max_length":
        without = {}
    if field not in INERT | {"renormalize_logits"}:
        assert ours != texts(checkpoint(**without))[0], "it changes nothing here: shows little"


@pytest.mark.parametrize("field", WITHOUT_EFFECT | SAMPLED)
def test_a_field_without_effect(field: str) -> None:
    more = {"do_sample": True} if field in ("temperature", "top_p", "top_k") else {}
    theirs, ours = texts(checkpoint(**more | {field: (WITHOUT_EFFECT | SAMPLED)[field]}))
    assert ours == theirs == greedy()[0]


@lru_cache(maxsize=1)
def plainly_sampled() -> list[int]:
    """The text that the same seed gives without any figure."""
    return sampled_texts(checkpoint())[0]


def sampled_texts(target: Any) -> tuple[list[int], list[int]]:
    """transformers' own sampled text, and the engine's, of one seed."""
    inputs = make_inputs(target, FAMILY, KIND)
    torch.manual_seed(6)
    theirs = target.generate(**inputs, do_sample=True)
    decoder = SpeculativeDecoder(target, build_pair(FAMILY).draft)
    ours = decoder.generate(**inputs, do_sample=True, seed=6).sequences
    prompt = greedy()[1]
    return theirs[0, prompt:].tolist(), ours[0, prompt:].tolist()


@pytest.mark.parametrize("field", SAMPLED)
def test_a_field_that_is_followed_when_text_is_sampled(field: str) -> None:
    theirs, ours = sampled_texts(checkpoint(**{"do_sample": True, field: SAMPLED[field]}))
    assert ours == theirs
    if field != "do_sample":
        assert ours != plainly_sampled(), "it changes nothing here: shows little"


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_is_refused(field: str) -> None:
    target = checkpoint(**{field: REFUSED[field]})
    with pytest.raises(OptionError) as caught:
        SpeculativeDecoder(target, build_pair(FAMILY).draft).generate(
            **make_inputs(target, FAMILY, KIND)
        )
    assert field in str(caught.value) or field == "token_healing"
    assert "\n" not in str(caught.value)


def test_no_field_is_forgotten() -> None:
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert known <= {*FOLLOWED, *SAMPLED, *WITHOUT_EFFECT, *REFUSED}


def test_the_page_tells_what_was_tested() -> None:
    parts = re.split(r"^## .*$", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:5]
    rows = [re.findall(r"^\| (`.*?) \|", part, re.MULTILINE) for part in parts]
    told = [set(re.findall(r"`(\w+)`", " ".join(names))) for names in rows]
    assert told == [set(FOLLOWED), set(SAMPLED), set(WITHOUT_EFFECT), set(REFUSED)]

"""Answers by a JSON schema: always valid, `generate`'s own text, forced tokens without a draft."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers as tf

import sage_core
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import OptionError
from sage_core.generation.json_schema import JsonGrammar

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "biggest_shape": {"enum": ["circle", "square", "triangle"]},
        "colours": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 3},
        "how_many_shapes_are_there": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["biggest_shape", "colours", "how_many_shapes_are_there"],
    "additionalProperties": False,
}
PROMPT = torch.tensor([[1, 7, 8]])
POLICIES = ("autoregressive", "chain", "static", "sage")


@pytest.fixture(scope="module")
def pair() -> Any:
    return sage_core.load()._pair


def grammar(pair: Any, prompt: int, schema: Any = SCHEMA) -> JsonGrammar:
    words = pair.target.get_output_embeddings().weight.shape[0]
    return JsonGrammar(schema, pair.family.tokenizer, words, [2, 0], prompt)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("sampling", [False, True], ids=["greedy", "sampled"])
def test_the_text_is_generate_s_and_valid(pair: Any, policy: str, sampling: bool) -> None:
    inputs = pair.family.prepare([], "What is there?")
    prompt = inputs["input_ids"].shape[1]
    options: dict[str, Any] = {"max_new_tokens": 120, "do_sample": sampling, "temperature": 1.5}
    decoder = SpeculativeDecoder(pair.target, pair.draft, policy)
    texts = []
    for decode in (pair.target.generate, decoder.generate):
        torch.manual_seed(3)
        rules = tf.LogitsProcessorList([grammar(pair, prompt)])
        output = decode(**inputs, **options, logits_processor=rules)
        texts.append(getattr(output, "sequences", output))
    assert torch.equal(*texts)
    answer = json.loads(pair.family.tokenizer.decode(texts[1][0, prompt:-1]))
    assert set(answer) == set(SCHEMA["required"])
    forced = [step for step in output.steps if "forced" in step.shape.note]
    assert forced and all(step.draft_passes == 0 for step in forced)
    assert sum(len(step.accepted) for step in forced) > len(texts[1][0, prompt:]) / 4


def allowed(rules: JsonGrammar, pair: Any, *texts: str) -> list[list[str]]:
    """What may follow each text (all of one length in tokens), asked in one call."""
    tokenizer = pair.family.tokenizer
    tails = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    ids = torch.tensor([PROMPT[0].tolist() + tail for tail in tails])
    words = pair.target.get_output_embeddings().weight.shape[0]
    scores = rules(ids, torch.zeros(len(texts), words))
    return [
        tokenizer.convert_ids_to_tokens(row.isfinite().nonzero()[:, 0].tolist()) for row in scores
    ]


def test_paths_are_told_apart_in_any_order(pair: Any) -> None:
    schema = {"enum": ["red", "blue"]}
    ours = grammar(pair, 3, schema)
    paths = ['"r', '"b', '"r']
    together = allowed(ours, pair, *paths)
    assert together[0] == together[2] != together[1]
    assert together == [allowed(grammar(pair, 3, schema), pair, path)[0] for path in paths]
    assert allowed(ours, pair, "") == [['"']]
    assert allowed(ours, pair, '"red"') == [["<|endoftext|>", "<|im_end|>"]]


def test_a_path_out_of_the_grammar_is_left_alone_and_forgotten(pair: Any) -> None:
    ours = grammar(pair, 3, {"enum": ["red"]})
    before = allowed(ours, pair, '"')
    assert len(allowed(ours, pair, "x")[0]) > 1000
    assert allowed(ours, pair, '"') == before


WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "not valid JSON"),
    "no object": ("[1]", "must be an object"),
    "no schema": ({"type": "nonsense"}, "cannot be used.*nonsense"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_schema_that_is_none_is_refused(pair: Any, name: str) -> None:
    schema, message = WRONG[name]
    with pytest.raises(OptionError, match=message) as caught:
        grammar(pair, 3, schema)
    assert "\n" not in str(caught.value)


def test_without_the_library_it_says_what_to_install(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "llguidance.hf", None)
    with pytest.raises(OptionError, match=r"sage-vlm\[grammar\]"):
        grammar(pair, 3)


def test_through_the_pipeline() -> None:
    pipeline = sage_core.load()
    for schema in (SCHEMA, json.dumps(SCHEMA)):
        result = pipeline.ask([], "What is there?", json_schema=schema)
        assert set(json.loads(result.text)) == set(SCHEMA["required"])
        assert result.finish_reason == "eos"

"""`generate(custom_generate=sage_core.custom_generate)` returns what `generate` returns."""

from __future__ import annotations

import copy
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from transformers.generation.streamers import BaseStreamer

import sage_core
from sage_core.errors import OptionError, UnsupportedError
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.letters import Letters

ROOT = Path(__file__).parents[2]
FAMILY, KIND = "qwen2_5_vl", "image"


def both(options: dict[str, Any], ours: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """What `generate` returns without and with the one line."""
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    options = {"do_sample": False, "max_new_tokens": 30, **options}
    line = {"custom_generate": sage_core.custom_generate, "draft_model": draft}
    torch.manual_seed(3)
    plain = target.generate(**inputs, **options)
    torch.manual_seed(3)
    return plain, target.generate(**inputs, **options, **line, **(ours or {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str) -> None:
    """The draft sees the picture with its own tower: it is right as often as the engine's."""
    target, draft = build_pair(family)
    inputs = make_inputs(target, family, FAMILIES[family].kinds[-1], length=9)
    plain = target.generate(**inputs, do_sample=False, max_new_tokens=30)
    passes = _Passes(target)
    ours = {"custom_generate": sage_core.custom_generate, "draft_model": draft}
    target.generate(**inputs, max_new_tokens=1, **ours)  # checks the models, once
    with passes:
        got = target.generate(**inputs, do_sample=False, max_new_tokens=30, **ours)
    assert torch.equal(got, plain)
    decoder = sage_core.SpeculativeDecoder(target, draft)
    stats = decoder.generate(**inputs, max_new_tokens=30).stats
    assert passes.count == stats.steps + 1, "the draft has guessed as well as in the engine itself"


class _Passes:
    """Counts the passes of a model's decoder."""

    def __init__(self, model: Any) -> None:
        self._decoder = model.get_decoder()
        self.count = 0

    def __enter__(self) -> None:
        def counted(*_: Any) -> None:
            self.count += 1

        self._handle = self._decoder.register_forward_hook(counted)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "a penalty": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 20},
    "a config object": {
        "generation_config": tf.GenerationConfig(
            max_new_tokens=17, do_sample=True, temperature=0.6, eos_token_id=2, pad_token_id=0
        ),
        "do_sample": None,
        "max_new_tokens": None,
    },
}


@pytest.mark.parametrize("policy", ["chain", "sage", "static"])
@pytest.mark.parametrize("name", OPTIONS)
def test_ids(name: str, policy: str) -> None:
    options = OPTIONS[name]
    if "generation_config" in options:
        options = {"generation_config": options["generation_config"]}
        target, draft = build_pair(FAMILY)
        inputs = make_inputs(target, FAMILY, KIND)
        line = {"custom_generate": sage_core.custom_generate, "draft_model": draft}
        torch.manual_seed(3)
        plain = target.generate(**inputs, **options)
        torch.manual_seed(3)
        got = target.generate(**inputs, **options, **line, policy=policy)
    else:
        plain, got = both(options, {"policy": policy})
    assert got.dtype == plain.dtype and not got.is_inference()
    assert torch.equal(got, plain)


def test_a_checkpoint_that_samples_is_followed() -> None:
    """Unlike sage's own interfaces: here it is `generate` that the caller has asked."""
    target, draft = build_pair(FAMILY)
    target = copy.copy(target)
    target.generation_config = copy.deepcopy(target.generation_config)
    target.generation_config.update(do_sample=True, temperature=0.9, top_k=9, max_new_tokens=20)
    inputs = make_inputs(target, FAMILY, KIND)
    line = {"custom_generate": sage_core.custom_generate, "draft_model": draft}
    torch.manual_seed(1)
    plain = target.generate(**inputs)
    torch.manual_seed(1)
    assert torch.equal(target.generate(**inputs, **line), plain)
    drawn = {"seed": 1, "candidates": "drawn", "policy": "static"}
    own = target.generate(**inputs, **line, **drawn)
    assert torch.equal(own, target.generate(**inputs, **line, **drawn))


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.2}, {"do_sample": True}], ids=str)
def test_the_dict_output(options: dict[str, Any]) -> None:
    wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    plain, got = both({**options, **wanted})
    assert type(got) is type(plain)
    assert torch.equal(got.sequences, plain.sequences)
    for name in ("scores", "logits"):
        mine, theirs = getattr(got, name), getattr(plain, name)
        assert len(mine) == len(theirs) == 30
        for a, b in zip(mine, theirs, strict=True):
            assert a.dtype == b.dtype and not a.is_inference()
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert got.attentions is got.hidden_states is None
    plain, got = both({**options, "return_dict_in_generate": True})
    assert got.scores is got.logits is None
    assert torch.equal(got.sequences, plain.sequences)


class _Notes(BaseStreamer):
    def __init__(self) -> None:
        self.put_in: list[list[int]] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        assert value.device.type == "cpu"
        self.put_in.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


def test_a_streamer_gets_the_same_tokens() -> None:
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    heard = []
    for line in ({}, {"custom_generate": sage_core.custom_generate, "draft_model": draft}):
        notes = _Notes()
        target.generate(**inputs, do_sample=False, max_new_tokens=12, streamer=notes, **line)
        heard.append((notes.put_in, notes.ended))
    assert heard[0] == heard[1]


def test_stopping_criteria_processors_and_stop_strings() -> None:
    plain = both({})[0]
    prompt = make_inputs(build_pair(FAMILY).target, FAMILY, KIND)["input_ids"].shape[1]
    letters = Letters(160)
    word = "".join(letters.convert_ids_to_tokens(plain[0, prompt + 9 : prompt + 11].tolist()))[1:3]

    def alternating(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        even = (torch.arange(scores.shape[1]) + ids[0, -1]) % 2 == 0
        return scores.masked_fill(even, -torch.inf)

    stop = tf.StopStringCriteria(letters, [word])
    for options in (
        {"stopping_criteria": tf.StoppingCriteriaList([stop])},
        {"logits_processor": tf.LogitsProcessorList([alternating])},
    ):
        theirs, ours = both(options)
        assert torch.equal(ours, theirs) and not torch.equal(ours, plain)


def test_arguments_that_cannot_be_followed_are_refused() -> None:
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    line = {"custom_generate": sage_core.custom_generate, "max_new_tokens": 4}
    with pytest.raises(OptionError, match="draft"):
        target.generate(**inputs, **line)
    for name, value in {
        "num_beams": 2,
        "num_return_sequences": 2,
        "guidance_scale": 2.0,
        "past_key_values": tf.DynamicCache(),
    }.items():
        more = {"do_sample": True} if name == "num_return_sequences" else {}
        with pytest.raises(UnsupportedError, match=name):
            target.generate(**inputs, **line, draft_model=draft, **{name: value}, **more)


def test_called_without_generate() -> None:
    """As a plain decoding function: no streamer to be found, and nothing else is missing."""
    target, draft = build_pair("llama")
    inputs = make_inputs(target, "llama", "text")
    caught: dict[str, Any] = {}

    def catch(model: Any, input_ids: torch.Tensor, **arguments: Any) -> torch.Tensor:
        caught.update(arguments, input_ids=input_ids)
        return input_ids

    target.generate(**inputs, do_sample=False, max_new_tokens=9, custom_generate=catch)
    got = sage_core.custom_generate(target, **caught, draft_model=draft)
    assert torch.equal(got, target.generate(**inputs, do_sample=False, max_new_tokens=9))


def test_the_example_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    """Three answers: by `generate` in one line, and by a pipeline without and with it."""
    runpy.run_path(str(ROOT / "examples" / "generate_in_one_line.py"))
    first, *others = capsys.readouterr().out.strip().splitlines()
    assert len(others) == 2 and {line.strip() for line in others} == {first.strip()}
    assert len(first.split()) > 5


def test_the_example_of_a_batch_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    """It compares each answer with the one that its question has alone."""
    runpy.run_path(str(ROOT / "examples" / "generate_a_batch.py"))
    assert len(capsys.readouterr().out.strip().splitlines()) == 3


def test_the_readme_has_the_line() -> None:
    line = "custom_generate=sage_core.custom_generate, draft_model=draft"
    for file in ("README.md", "docs/generation-config.md", "examples/generate_in_one_line.py"):
        assert line in re.sub(r"\s+", " ", (ROOT / file).read_text(encoding="utf-8")), file

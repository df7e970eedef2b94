"""ViSkip: observed attention, skipped steps, and unchanged texts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sage_core
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.visual_attention import VisualAttention
from sage_core.errors import OptionError, UnsupportedError
from sage_core.runtime.cuda.executor import CudaGraphBackend
from tests.tiny import FAMILIES, build_pair, make_inputs

PICTURES = [family for family, spec in FAMILIES.items() if spec.kinds[-1] != "text"]


class Noted(list[float]):
    """The shares that a decoding was steered by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        share = VisualAttention.share

        def note(attention: VisualAttention) -> float:
            self.append(share(attention))
            return self[-1]

        monkeypatch.setattr(VisualAttention, "share", note)


@pytest.mark.parametrize("family", PICTURES)
def test_the_share_equals_the_model_s_attention(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a plain pass over the finished text that gives its attention matrices."""
    shares = Noted(monkeypatch)
    target, draft = build_pair(family)
    inputs = make_inputs(target, family, FAMILIES[family].kinds[-1])
    output = SpeculativeDecoder(target, draft, "static", viskip=0.9).generate(
        **inputs, max_new_tokens=16, repetition_penalty=1.3
    )
    assert any(step.accepted for step in output.steps), "a row of a tree is looked at too"
    weights = _attention(target, inputs, output.sequences)
    prompt = inputs["input_ids"].shape[1]
    marks = [getattr(target.config, f"{kind}_token_id", -1) for kind in ("image", "video")]
    visual = torch.isin(output.sequences[0], torch.tensor(marks)).nonzero()[:, 0]
    count = len(target.get_decoder().layers)
    layers = sorted({(2 * i + 1) * count // 8 for i in range(4)})
    committed = prompt
    for step, share in zip(output.steps, shares, strict=False):
        # The row behind which the next tree begins gave the last token that is committed.
        committed += len(step.tokens)
        row = committed - 2
        expected = sum(float(weights[i][0, :, row, visual].sum(-1).mean()) for i in layers)
        assert share == pytest.approx(expected / len(layers), abs=1e-4)


def _attention(target: Any, inputs: Any, sequences: torch.Tensor) -> Any:
    """The attention matrices (1, heads, n, n) of all layers over the finished text."""
    more = sequences.shape[1] - inputs["input_ids"].shape[1]
    whole = {**inputs, "input_ids": sequences, "attention_mask": torch.ones_like(sequences)}
    if "mm_token_type_ids" in inputs:
        whole["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, more))
    target.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            return target(**whole, output_attentions=True).attentions
    finally:
        target.set_attn_implementation("sdpa")


@pytest.mark.parametrize("policy", ["static", "sage", "eagle2", "sage-paper"])
@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_vl"])
def test_steps_are_skipped_and_the_text_is_unchanged(
    family: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, draft = build_pair(family)
    inputs = make_inputs(target, family, FAMILIES[family].kinds[-1]) | {"max_new_tokens": 40}
    with monkeypatch.context() as patch:
        shares = Noted(patch)
        SpeculativeDecoder(target, draft, policy, viskip=1.0).generate(**inputs)
    middle = sorted(shares)[len(shares) // 2]
    output = SpeculativeDecoder(target, draft, policy, viskip=middle).generate(**inputs)
    assert torch.equal(output.sequences, target.generate(**inputs, do_sample=False))
    skipped = ["viskip" in step.shape.note for step in output.steps[1:]]
    assert any(skipped) and not all(skipped)
    for step, skip in zip(output.steps[1:], skipped, strict=True):
        assert not (skip and (len(step.tree) or step.draft_passes))


@pytest.mark.parametrize("options", [{}, {"lookup": "ngram:least=0.001,price=0"}], ids=str)
def test_trees_of_more_nodes_than_usual(options: dict[str, Any]) -> None:
    """What counts is the row that was accepted last, wherever it was in the tree."""
    target, draft = build_pair("llava_onevision")
    inputs = make_inputs(target, "llava_onevision", "image", length=60) | {"max_new_tokens": 24}
    decoder = SpeculativeDecoder(target, draft, "eagle2:nodes=80", viskip=0.9, **options)
    output = decoder.generate(**inputs)
    assert max(len(step.tree) for step in output.steps) >= 80
    assert torch.equal(output.sequences, target.generate(**inputs, do_sample=False))


def test_with_lookup_and_in_a_conversation() -> None:
    pipeline = sage_core.load()
    plain, skipping = (
        pipeline.chat(["examples/chart.png"], draft_lookup=True, max_new_tokens=24, viskip=share)
        for share in (None, 0.05)
    )
    for question in ("Which bar is the tallest?", "What is its value?"):
        assert skipping.ask(question).tokens == plain.ask(question).tokens


def test_a_text_without_images_is_not_affected() -> None:
    target, draft = build_pair("llama")
    inputs = make_inputs(target, "llama", "text") | {"max_new_tokens": 16}
    plain, skipping = (
        SpeculativeDecoder(target, draft, "static", viskip=share).generate(**inputs)
        for share in (None, 0.01)
    )
    assert [step.tree for step in skipping.steps] == [step.tree for step in plain.steps]


def test_no_hooks_stay_on_the_model() -> None:
    target, draft = build_pair("llava_onevision")
    inputs = make_inputs(target, "llava_onevision", "image")
    stream = SpeculativeDecoder(target, draft, viskip=0.5).stream(**inputs, max_new_tokens=9)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in target.modules())

    before = hooks()  # transformers leaves some where attention has been asked for
    for _ in stream:
        assert hooks() == before


def test_unobservable_attention_is_refused() -> None:
    target, draft = build_pair("llava_onevision")
    inputs = make_inputs(target, "llava_onevision", "image")
    target.set_attn_implementation("eager")
    try:
        with pytest.raises(UnsupportedError, match="attn_implementation='sdpa'"):
            SpeculativeDecoder(target, draft, viskip=0.5).generate(**inputs, max_new_tokens=9)
    finally:
        target.set_attn_implementation("sdpa")


def test_batches_are_refused() -> None:
    target, draft = build_pair("llava_onevision")
    inputs = make_inputs(target, "llava_onevision", "image")
    decoder = SpeculativeDecoder(target, draft, viskip=0.5)
    with pytest.raises(UnsupportedError, match="one text at a time"):
        decoder.generate_batch([inputs, inputs], max_new_tokens=4)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no share": ({"viskip": 0.0}, "above 0"),
    "more than all": ({"viskip": 1.2}, "above 0"),
    "no draft model": ({"viskip": 0.3, "draft": "ngram"}, "needs a draft model"),
    "a policy without drafts": ({"viskip": 0.3, "policy": "autoregressive"}, "needs a draft model"),
    "captured passes": ({"viskip": 0.3, "backend": CudaGraphBackend()}, "eager passes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_requests_that_cannot_skip_are_refused(name: str) -> None:
    given, message = REFUSED[name]
    target, draft = build_pair("llama")
    with pytest.raises(OptionError, match=message):
        SpeculativeDecoder(target, **({"draft": draft} | given))

"""Padded batches of `generate`: each prompt has the text that it has alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf

import sage_core
from sage_core import generate as generating
from sage_core.engine.batching import padded
from sage_core.errors import OptionError, UnsupportedError
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.families import EOS, FIRST_WORD, PAD

FAMILY = "qwen2_5_vl"
TOKENS = 24


def together(prompts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Prompts as a processor gives a batch of them: padded on the left, pictures in a row."""
    width = max(prompt["input_ids"].shape[1] for prompt in prompts)
    batch: dict[str, torch.Tensor] = {}
    for name in dict.fromkeys(name for prompt in prompts for name in prompt):
        values = [prompt[name] for prompt in prompts if name in prompt]
        if name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            fill = PAD if name == "input_ids" else 0
            values = [
                torch.nn.functional.pad(value, (width - value.shape[1], 0), value=fill)
                for value in values
            ]
        elif name == "pixel_values" and values[0].ndim == 5:  # in tiles, of which some are padding
            most = max(value.shape[1] for value in values)
            values = [torch.nn.functional.pad(v, (0,) * 6 + (0, most - v.shape[1])) for v in values]
        batch[name] = torch.cat(values)
    return batch


def alone(target: Any, prompts: list[dict[str, Any]], **options: Any) -> list[list[int]]:
    """The new tokens of each prompt by `generate`, one by one."""
    texts = []
    for prompt in prompts:
        torch.manual_seed(5)
        ids = target.generate(**prompt, **options)
        texts.append(ids[0, prompt["input_ids"].shape[1] :].tolist())
    return texts


def new_tokens(ids: torch.Tensor, width: int, ends: bool = True) -> list[list[int]]:
    """Each row's new tokens without what pads them."""
    texts = []
    for row in ids[:, width:].tolist():
        end = row.index(EOS) + 1 if ends and EOS in row else len(row)
        assert not [token for token in row[end:] if token != PAD], "padded behind the end"
        texts.append(row[:end])
    return texts


def ending(target: Any) -> tf.LogitsProcessorList:
    """A rule that ends texts after some words, so that rows end at different places."""

    def rule(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ends = torch.zeros_like(scores)
        ends[:, EOS] = 100.0 * (ids[:, -1] % 7 == 3)
        return scores + ends

    rule.stateless = True  # type: ignore[attr-defined]
    return tf.LogitsProcessorList([rule])


def line(draft: Any, **more: Any) -> dict[str, Any]:
    return {"custom_generate": sage_core.custom_generate, "draft_model": draft, **more}


KINDS = {
    "text": ("text", "text", "text"),
    "pictures": ("image", "text", "images"),
    "everything": ("video", "images", "mixed", "text", "image"),
}


@pytest.mark.parametrize(
    ("family", "name"),
    [(f, n) for f in FAMILIES for n in KINDS if set(KINDS[n]) <= set(FAMILIES[f].kinds)],
)
def test_batches_of_every_family(family: str, name: str) -> None:
    kinds = KINDS[name]
    target, draft = build_pair(family)
    prompts = [
        make_inputs(target, family, kind, length=5 + 4 * i, seed=i) for i, kind in enumerate(kinds)
    ]
    batch = together(prompts)
    rules = ending(target)
    options = {"do_sample": False, "max_new_tokens": TOKENS, "logits_processor": rules}
    expected = alone(target, prompts, **options)
    assert len({len(text) for text in expected}) > 1, "they end at different places"
    got = target.generate(**batch, **options, **line(draft))
    width = batch["input_ids"].shape[1]
    assert torch.equal(got[:, :width], batch["input_ids"])
    assert new_tokens(got, width) == expected
    assert got.shape[1] == width + max(map(len, expected)) and not got.is_inference()


OPTIONS: dict[str, dict[str, Any]] = {
    "a penalty": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    "sampling": {"do_sample": True, "temperature": 0.9, "top_k": 20},
    "at least so many": {"min_new_tokens": 9, "logits_processor": "ending"},
    "a criterion": {"stopping_criteria": "even"},
    "what may follow": {"prefix_allowed_tokens_fn": "by row"},
}


def stops_at_even(ids: torch.Tensor, scores: Any) -> torch.Tensor:
    return ids[:, -1] % 16 == 0


@pytest.mark.parametrize("policy", ["static", "sage"])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_rules_of_each_prompt(name: str, policy: str) -> None:
    target, draft = build_pair(FAMILY)
    prompts = [
        make_inputs(target, FAMILY, kind, length=6 + 5 * i, seed=i)
        for i, kind in enumerate(("image", "text", "images"))
    ]
    options = {"do_sample": False, "max_new_tokens": TOKENS, **OPTIONS[name]}
    if "logits_processor" in options:
        options["logits_processor"] = ending(target)
    if "stopping_criteria" in options:
        options["stopping_criteria"] = tf.StoppingCriteriaList([stops_at_even])

    def allowed(row: int, ids: torch.Tensor) -> list[int]:
        return list(range(FIRST_WORD + row, 160, 3))

    by_row = options.pop("prefix_allowed_tokens_fn", None) is not None
    expected = [
        alone(
            target,
            [prompt],
            **options,
            **({"prefix_allowed_tokens_fn": lambda _, ids, i=i: allowed(i, ids)} if by_row else {}),
        )[0]
        for i, prompt in enumerate(prompts)
    ]
    if by_row:
        options["prefix_allowed_tokens_fn"] = allowed
    batch = together(prompts)
    more = {"seed": 5} if options["do_sample"] else {}
    got = target.generate(**batch, **options, **line(draft, policy=policy, **more))
    width = batch["input_ids"].shape[1]
    texts = [row[: len(text)] for row, text in zip(got[:, width:].tolist(), expected, strict=True)]
    assert texts == expected
    for row, text in zip(got[:, width:].tolist(), expected, strict=True):
        assert set(row[len(text) :]) <= {PAD}


@pytest.mark.parametrize("limits", [{"max_length": 40}, {"max_length": 40, "min_length": 30}])
def test_lengths_are_the_batch_s(limits: dict[str, int]) -> None:
    """They count the padding, as they do for `generate`."""
    target, draft = build_pair("llama")
    prompts = [make_inputs(target, "llama", "text", length=n) for n in (5, 20)]
    batch = together(prompts)
    options = {"do_sample": False, "logits_processor": ending(target), **limits}
    plain = target.generate(**batch, **options)
    assert torch.equal(target.generate(**batch, **options, **line(draft)), plain)


def test_one_prompt_with_padding() -> None:
    target, draft = build_pair(FAMILY)
    prompt = make_inputs(target, FAMILY, "image")
    expected = alone(target, [prompt], do_sample=False, max_new_tokens=TOKENS)
    batch = together([prompt, make_inputs(target, FAMILY, "text", length=60)])
    batch = {
        name: value[:1] if name in ("input_ids", "attention_mask", "mm_token_type_ids") else value
        for name, value in batch.items()
    }
    assert not batch["attention_mask"].all()
    got = target.generate(**batch, do_sample=False, max_new_tokens=TOKENS, **line(draft))
    assert got[0, batch["input_ids"].shape[1] :].tolist() == expected[0]


def test_the_dict_output() -> None:
    target, draft = build_pair(FAMILY)
    prompts = [make_inputs(target, FAMILY, "image", length=n, seed=n) for n in (5, 9)]
    batch = together(prompts)
    options = {
        "do_sample": False,
        "max_new_tokens": TOKENS,
        "logits_processor": ending(target),
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
    }
    got = target.generate(**batch, **options, **line(draft))
    width = batch["input_ids"].shape[1]
    longest = got.sequences.shape[1] - width
    for row, prompt in enumerate(prompts):
        plain = target.generate(**prompt, **options)
        for name in ("scores", "logits"):
            mine, theirs = getattr(got, name), getattr(plain, name)
            assert len(mine) == longest and mine[0].shape == (2, 160)
            for step, wanted in enumerate(theirs):
                torch.testing.assert_close(mine[step][row], wanted[0], atol=1e-4, rtol=1e-4)
            assert not any(bool(step[row].any()) for step in mine[len(theirs) :])


def test_passes_are_shared() -> None:
    target, draft = build_pair("llama")
    prompts = [make_inputs(target, "llama", "text", length=n) for n in (6, 9, 12)]
    passes = []
    hook = target.get_decoder().register_forward_hook(lambda *_: passes.append(1))
    try:
        for prompt in prompts:
            target.generate(**prompt, do_sample=False, max_new_tokens=TOKENS, **line(draft))
        one_by_one = len(passes)
        batch = together(prompts)
        target.generate(**batch, do_sample=False, max_new_tokens=TOKENS, **line(draft))
    finally:
        hook.remove()
    assert len(passes) - one_by_one < one_by_one
    skipping = line(draft, viskip=0.9)  # one after another
    got = target.generate(**batch, do_sample=False, max_new_tokens=TOKENS, **skipping)
    assert torch.equal(
        got, target.generate(**batch, do_sample=False, max_new_tokens=TOKENS, **line(draft))
    )


def test_inputs_that_cannot_be_split_are_refused() -> None:
    target, draft = build_pair(FAMILY)
    prompts = [make_inputs(target, FAMILY, kind, length=9) for kind in ("image", "images")]
    batch = together(prompts)
    options = {"max_new_tokens": 4, **line(draft)}
    ids, mask = batch["input_ids"], batch["attention_mask"]
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"streamer": _Streamer()}, UnsupportedError, "streamer"),
        ({"num_beams": 2}, UnsupportedError, "num_beams"),
        ({"logits_processor": tf.LogitsProcessorList([_Stateful()])}, UnsupportedError, "Stateful"),
        ({"position_ids": torch.zeros_like(ids)[None].expand(4, -1, -1)}, UnsupportedError,
         "position_ids"),
    ]  # fmt: skip
    for more, error, says in cases:
        with pytest.raises(error, match=says):
            target.generate(**{**batch, **options, **more})
    with pytest.raises(UnsupportedError, match="within generate only"):
        generating.custom_generate(
            target,
            ids,
            attention_mask=mask,
            generation_config=target.generation_config,
            draft_model=draft,
        )


def test_padding_is_on_the_left() -> None:
    target, draft = build_pair("llama")
    batch = together([make_inputs(target, "llama", "text", length=n) for n in (6, 9)])
    mask = batch["attention_mask"]
    cases = ((mask.flip(1), "padded on the left"), (mask * torch.tensor([[0], [1]]), "nothing"))
    for wrong, says in cases:
        with pytest.raises(OptionError, match=says):
            target.generate(**{**batch, "attention_mask": wrong}, **line(draft), max_new_tokens=4)


class _Streamer(tf.generation.streamers.BaseStreamer):
    def put(self, value: torch.Tensor) -> None: ...

    def end(self) -> None: ...


class _Stateful:
    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores


@pytest.mark.parametrize(
    ("sizes", "asked", "owned"),
    [
        ([4, 6, 4], [4, 10], [(0, 1), (1, 3)]),
        ([4, 6], [0, 10, 0], [(0, 0), (0, 2), (2, 2)]),
        ([], [0, 0], [(0, 0), (0, 0)]),
        ([4, 6], [5, 5], None),
        ([4, 6], [4], None),
        ([4], [4, 4], None),
    ],
)
def test_images_are_assigned_by_placeholders(sizes, asked, owned) -> None:
    if owned is None:
        with pytest.raises(UnsupportedError, match="one by one"):
            padded._owned(sizes, asked, "image")
    else:
        assert padded._owned(sizes, asked, "image") == owned


@pytest.mark.parametrize(
    ("name", "value", "other", "says"),
    [
        ("pixel_values", torch.zeros(9, 2), {"image_grid_thw": torch.tensor([[1, 2, 2]] * 2)}, "t"),
        ("image_sizes", torch.zeros(3, 2), {}, "image_sizes of several prompts"),
        ("batch_num_images", torch.tensor([2]), {}, "joins images of two prompts"),
    ],
)
def test_tensors_that_do_not_fit_the_images(name, value, other, says) -> None:
    with pytest.raises(UnsupportedError, match=says):
        padded._parts(name, value, {name: value, **other}, 2)(0, 1)


def test_without_a_pad_token() -> None:
    config = tf.GenerationConfig(pad_token_id=None)
    decoder = sage_core.SpeculativeDecoder(build_pair("llama").target, None, "autoregressive")
    target = decoder.target
    outputs = [
        decoder.generate(**make_inputs(target, "llama", "text"), max_new_tokens=n) for n in (3, 5)
    ]
    ids = torch.cat([make_inputs(target, "llama", "text")["input_ids"]] * 2)
    with pytest.raises(OptionError, match="pad_token_id"):
        padded.pad_texts(outputs, ids, config)
    same, *_ = padded.pad_texts(outputs[:1] * 2, ids, config)
    assert same.shape == (2, ids.shape[1] + 3)

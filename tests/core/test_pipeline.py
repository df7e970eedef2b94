"""Pipeline: files and a prompt in, the target's own text out, streamed."""

from __future__ import annotations

import io
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sage_core
from sage_core.engine.results import Stats
from sage_core.errors import InputError, MemoryExhaustedError, OptionError, UnsupportedError
from sage_core.models.detokenize import REPLACEMENT, Detokenizer
from sage_core.models.inputs import IMAGE_PROMPT, VIDEO_PROMPT
from sage_core.pipeline import Options, Pipeline
from tests.core.media_files import card, encoded, write_clip
from tests.core.saved_pair import make_tokenizer, save_pair


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return sage_core.load(save_pair(tmp_path_factory.mktemp("pair")), device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A picture and a clip."""
    folder = tmp_path_factory.mktemp("files")
    picture = folder / "card.png"
    picture.write_bytes(encoded(card(), "PNG"))
    return picture, write_clip(folder / "clip.mp4")


def reference(pipeline: Pipeline, media: list[Any], prompt: str, **options: Any) -> tuple[int, ...]:
    """The new tokens of transformers' own greedy `generate`."""
    pair = pipeline._pair
    sampling = Options().sampling(pair.family.sampling)
    inputs = pair.family.prepare([sage_core.open_media(m, sampling) for m in media], prompt)
    out = pair.target.generate(**inputs, do_sample=False, **options)
    return tuple(out[0, inputs["input_ids"].shape[1] :].tolist())


@pytest.mark.parametrize("policy", ["sage", "static", "chain", "autoregressive"])
@pytest.mark.parametrize("which", [[0], [1], [0, 0], [0, 1], []], ids=str)
def test_the_text_is_the_targets_own(
    pipeline: Pipeline, files: tuple[Path, Path], which: list[int], policy: str
) -> None:
    media = [files[i] for i in which]
    result = pipeline.ask(media, "What is it?", policy=policy, max_new_tokens=24)
    assert result.tokens == reference(pipeline, media, "What is it?", max_new_tokens=24)
    assert result.files == tuple(str(m) for m in media)
    assert result.prompt == "What is it?"
    assert result.policy == policy


def test_generation_options_reach_the_decoder(pipeline: Pipeline, files: tuple[Path, Path]) -> None:
    plain = reference(pipeline, [files[0]], "x", max_new_tokens=20)
    penalty = {"repetition_penalty": 1.3}
    expected = reference(pipeline, [files[0]], "x", max_new_tokens=20, **penalty)
    assert expected != plain  # otherwise this shows nothing
    result = pipeline.ask(files[0], "x", max_new_tokens=20, generation=penalty)
    assert result.tokens == expected
    stopped = pipeline.ask(files[0], "x", max_new_tokens=20, generation={"eos_token_id": plain[3]})
    assert stopped.tokens == plain[: plain.index(plain[3]) + 1]
    assert stopped.finish_reason == "eos"


def letters_only(pipeline: Pipeline) -> dict[str, Any]:
    """A random model writes bytes of every kind; these options leave it lower-case letters."""
    vocabulary = pipeline._pair.family.tokenizer.get_vocab()
    others = [i for t, i in vocabulary.items() if not (len(t) == 1 and "a" <= t <= "z")]
    return {"suppress_tokens": [*others, 261, 262, 263], "no_repeat_ngram_size": 2}


def test_a_stop_string_ends_the_text(pipeline: Pipeline, files: tuple[Path, Path]) -> None:
    letters = letters_only(pipeline)
    whole = pipeline.ask(files[0], "x", max_new_tokens=20, generation=letters)
    assert whole.finish_reason == "length"
    assert len(whole.tokens) == len(whole.text) == 20
    stop = whole.text[6:8]
    result = pipeline.ask(
        files[0], "x", max_new_tokens=20, generation=letters | {"stop_strings": [stop]}
    )
    assert result.finish_reason == "stop"
    assert result.text == whole.text[: whole.text.index(stop) + 2]


def test_caption_prompts_by_kind_and_one_result_a_file(
    pipeline: Pipeline, files: tuple[Path, Path]
) -> None:
    results = pipeline.caption(list(files), max_new_tokens=3)
    assert [r.prompt for r in results] == [IMAGE_PROMPT, VIDEO_PROMPT]
    assert [r.files for r in results] == [(str(files[0]),), (str(files[1]),)]
    one = pipeline.caption(files[0], "Tell me.", max_new_tokens=3)
    assert one.prompt == "Tell me."
    with pytest.raises(OptionError, match="nothing to describe"):
        pipeline.stream([])


def test_anything_that_can_be_opened_is_an_input(
    pipeline: Pipeline, files: tuple[Path, Path]
) -> None:
    data = files[0].read_bytes()
    opened = sage_core.open_media(files[0])
    wanted = pipeline.caption(files[0], max_new_tokens=8).tokens
    for source in (str(files[0]), data, io.BytesIO(data), card(), opened):
        assert pipeline.caption(source, max_new_tokens=8).tokens == wanted


def test_a_stream_shows_the_text_as_it_grows(pipeline: Pipeline, files: tuple[Path, Path]) -> None:
    stream = pipeline.stream(files[0], "x", max_new_tokens=30)
    assert stream.text == ""
    texts, tokens = [], []
    for step in stream:
        texts.append(stream.text)
        tokens.extend(step.tokens)
    result = stream.result()
    assert result.tokens == tuple(tokens)
    assert len(tokens) == 30
    assert result.text == texts[-1] == stream.text
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    tokenizer = pipeline._pair.family.tokenizer
    assert result.text == tokenizer.decode(tokens, skip_special_tokens=True)
    assert [s.index for s in result.steps] == list(range(len(result.steps)))
    assert stream.token_text(2) == "<|im_end|>"
    assert next(stream, None) is None


def test_a_closed_stream_returns_the_text_so_far(
    pipeline: Pipeline, files: tuple[Path, Path]
) -> None:
    stream = pipeline.stream(files[0], "x", max_new_tokens=30)
    next(stream)
    next(stream)
    stream.close()
    assert list(stream) == []
    result = stream.result()
    assert 2 <= len(result.tokens) < 30
    assert result.finish_reason == "stop"
    untouched = pipeline.stream(files[0], "x")
    untouched.close()
    assert untouched.result().text == ""


def test_stats_are_those_of_the_steps_and_of_the_media(
    pipeline: Pipeline, files: tuple[Path, Path]
) -> None:
    result = pipeline.caption(files[1], max_new_tokens=12)
    stats = result.stats
    again = Stats.from_steps(result.steps)
    assert stats.new_tokens == again.new_tokens == 12
    assert stats.accepted_histogram == again.accepted_histogram
    assert stats.prompt_tokens > 8 * 4  # eight frames of four tokens
    assert stats.media_seconds > 0
    assert stats.wall_seconds > 0
    assert stats.peak_memory > 10_000_000


def test_without_a_draft_the_default_is_autoregressive(
    pipeline: Pipeline, files: tuple[Path, Path]
) -> None:
    alone = sage_core.load(pipeline.target_id, draft=None)
    result = alone.caption(files[0], max_new_tokens=8)
    assert result.tokens == pipeline.caption(files[0], max_new_tokens=8).tokens
    assert result.stats.nodes_verified == 0
    assert result.policy == "autoregressive"
    with pytest.raises(OptionError, match="draft"):
        alone.caption(files[0], policy="static")


def test_frames_default_to_the_familys(pipeline: Pipeline, files: tuple[Path, Path]) -> None:
    def video_tokens(**options: Any) -> int:
        return pipeline.caption(files[1], "x", max_new_tokens=1, **options).stats.prompt_tokens

    one = video_tokens(frames=1)
    assert video_tokens() - one == 7 * 4
    assert video_tokens(frames=3) - one == 2 * 4
    assert video_tokens(fps=2.0) - one == 3 * 4
    assert video_tokens(fps=2.0, start=1.0) - one == 1 * 4
    assert video_tokens(frames=3, end=0.25) - one == 1 * 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_tokens": 3}, "unknown option 'max_tokens'"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 2.5}, "max_new_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"frames": 0}, "frames"),
        ({"frames": 2, "fps": 1.0}, "exclude each other"),
        ({"policy": "magic"}, "magic"),
        ({"generation": {"temprature": 1}}, "unknown generation option 'temprature'"),
        ({"generation": {"max_new_tokens": 1}}, "unknown generation option 'max_new_tokens'"),
    ],
    ids=str,
)
def test_options_check_themselves(
    pipeline: Pipeline, files: tuple[Path, Path], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        pipeline.caption(files[0], **options)


def test_options_are_documented_in_one_place() -> None:
    with pytest.raises(OptionError) as caught:
        Options.of({"nonsense": 1})
    for field in fields(Options):
        assert field.name in str(caught.value)


def test_errors_of_inputs_and_of_generation(pipeline: Pipeline, files: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"none\.png"):
        pipeline.stream("none.png", "x")  # before any model runs
    with pytest.raises(UnsupportedError, match="num_beams"):
        pipeline.caption(files[0], generation={"num_beams": 2})


def test_running_out_of_memory_while_decoding(
    pipeline: Pipeline, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipeline._pair.target.model.language_model, "forward", exhausted)
    with pytest.raises(MemoryExhaustedError, match=r"while decoding: .*fewer frames"):
        pipeline.caption(files[0], max_new_tokens=4)


TOKENIZER = make_tokenizer()


@settings(deadline=None)
@given(text=st.text(max_size=40), data=st.data())
def test_streamed_text_grows_by_whole_characters(text: str, data: st.DataObject) -> None:
    """Bytes are tokens here, so every character beyond ASCII is spread over several."""
    tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    detokenizer = Detokenizer(TOKENIZER)
    position, seen = 0, ""
    while position < len(tokens):
        size = data.draw(st.integers(1, 5))
        detokenizer.push(tokens[position : position + size])
        position += size
        assert detokenizer.text.startswith(seen)
        seen = detokenizer.text
        if REPLACEMENT not in text:
            assert text.startswith(seen)
    detokenizer.finish()
    assert detokenizer.text == TOKENIZER.decode(tokens, skip_special_tokens=True)


@settings(deadline=None)
@given(tokens=st.lists(st.integers(0, 260), max_size=60), sizes=st.lists(st.integers(1, 9)))
def test_tokens_only_append_text(tokens: list[int], sizes: list[int]) -> None:
    detokenizer = Detokenizer(TOKENIZER)
    position, seen = 0, ""
    for size in [*sizes, len(tokens) + 1]:
        detokenizer.push(tokens[position : position + size])
        position += size
        assert detokenizer.text.startswith(seen)
        seen = detokenizer.text
    detokenizer.finish()
    assert detokenizer.text.startswith(seen)


def test_an_incomplete_character_waits_and_is_shown_at_the_end() -> None:
    euro = TOKENIZER("a€", add_special_tokens=False)["input_ids"]
    assert len(euro) == 4
    detokenizer = Detokenizer(TOKENIZER)
    shown = []
    for token in euro:
        detokenizer.push([token])
        shown.append(detokenizer.text)
    assert shown == ["a", "a", "a", "a€"]
    half = Detokenizer(TOKENIZER)
    half.push(euro[:-1])
    assert half.text == "a"
    half.finish()
    assert half.text == "a" + REPLACEMENT

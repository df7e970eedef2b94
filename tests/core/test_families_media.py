"""Every family with several media: exact, and in the order of transformers' processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import sage_core
from sage_core.errors import InputError
from sage_core.pipeline import Pipeline
from tests.core.saved_families import SAVED, VISION, clip, picture, save_pair

MEDIA: dict[str, list[Any]] = {
    "two pictures": [picture(), picture(16, 64, 1)],
    "three pictures of one size": [picture(seed=i) for i in range(3)],
    "two clips": [clip(), clip(3, 16, 32, 1)],
    "a picture, then a clip": [picture(), clip()],
    "a clip, then a picture": [clip(), picture()],
    "all in turn": [clip(2), picture(), clip(5, 20, 20, 3), picture(24, 24, 4)],
}
POLICIES = ("sage", "static", "chain")
NEW = 16


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    return {}


@pytest.fixture
def pipeline(request: Any, pipelines: Any, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    name = request.param
    if name not in pipelines:
        pipelines[name] = sage_core.load(save_pair(tmp_path_factory.mktemp(name), name))
    return pipelines[name]


def reference(pipeline: Pipeline, inputs: dict[str, Any]) -> list[int]:
    whole = pipeline._pair.target.generate(**inputs, do_sample=False, max_new_tokens=NEW)
    return whole[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("media", MEDIA)
@pytest.mark.parametrize("pipeline", VISION, indirect=True)
def test_the_output_is_that_of_generate(pipeline: Pipeline, media: str) -> None:
    items = MEDIA[media]
    inputs = pipeline._pair.family.prepare(items, "What is this?")
    policy = POLICIES[list(MEDIA).index(media) % len(POLICIES)]
    result = pipeline.ask(items, "What is this?", policy=policy, max_new_tokens=NEW)
    assert list(result.tokens) == reference(pipeline, inputs)
    # The order must matter, or the test could not fail.
    if len({type(item) for item in items}) == 1:
        turned = pipeline._pair.family.prepare(items[::-1], "What is this?")
        assert not all(torch.equal(inputs[k], turned[k]) for k in inputs if inputs[k].ndim)


@pytest.mark.parametrize("media", MEDIA)
@pytest.mark.parametrize("pipeline", VISION, indirect=True)
def test_placeholders_are_in_the_order_of_the_template(pipeline: Pipeline, media: str) -> None:
    """One run of placeholders for each image or video, in their order."""
    family, items = pipeline._pair.family, MEDIA[media]
    ids = family.prepare(items, "What is this?")["input_ids"][0].tolist()
    image = family.config.image_token_id
    video = getattr(family.config, "video_token_id", None)
    kinds = [i for i in ids if i in (image, video)]
    order = [k for i, k in enumerate(kinds) if i == 0 or kinds[i - 1] != k]
    wanted = [image if isinstance(item, sage_core.Picture) else video for item in items]
    if video is None:  # LLaVA-1.5 takes a video as images
        wanted = [image]
    elif family.config.model_type == "llava_onevision":  # its template has images first
        wanted = sorted(wanted)
    expected = [k for i, k in enumerate(wanted) if i == 0 or wanted[i - 1] != k]
    assert order == expected


@pytest.mark.parametrize("height", [1, 3, 4, 5])
@pytest.mark.parametrize("pipeline", VISION, indirect=True)
def test_rows_of_a_thin_frame_are_not_taken_for_channels(pipeline: Pipeline, height: int) -> None:
    """A frame of 1, 3 or 4 rows: its left half is red, its right half blue."""
    frame = np.zeros((height, 50, 3), np.uint8)
    frame[:, :25, 0] = frame[:, 25:, 2] = 255
    thin = sage_core.Clip(np.stack([frame] * 4), np.arange(4) / 4, 4.0, 1.0, "thin")
    family = pipeline._pair.family
    inputs = family.process_media([thin])
    values = next(v for name, v in inputs.items() if name.startswith("pixel_values"))
    # Patches of the Qwen families are rows of values, by channel.
    pixels = (
        values.reshape(-1, *values.shape[-3:])
        if values.ndim > 3
        else values.reshape(len(values), 3, -1)
    )
    processor = getattr(family, "image_processor", None) or family.processor.image_processor
    mean, std = (torch.tensor(getattr(processor, f"image_{n}")) for n in ("mean", "std"))
    greatest = pixels.transpose(0, 1).reshape(3, -1).amax(1) * std + mean
    assert greatest[0] > 0.8
    assert greatest[1] < 0.1
    assert greatest[2] > 0.8


@pytest.mark.parametrize("pipeline", SAVED, indirect=True)
def test_a_question_alone(pipeline: Pipeline) -> None:
    """No file: for vision and text models, with their templates and special tokens."""
    family = pipeline._pair.family
    inputs = family.prepare([], "What is a spandrel?")
    for policy in ("sage", "autoregressive"):
        result = pipeline.ask([], "What is a spandrel?", policy=policy, max_new_tokens=NEW)
        assert list(result.tokens) == reference(pipeline, inputs)
    assert result.files == ()
    text = family.tokenizer.decode(inputs["input_ids"][0])
    assert text.count("What is a spandrel?") == 1
    bos = family.tokenizer.bos_token
    assert bos is None or (text.startswith(bos) and text.count(bos) == 1)


@pytest.mark.parametrize("pipeline", [n for n in SAVED if n not in VISION], indirect=True)
def test_text_models_refuse_media(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match="do not support images or videos: choose a VLM"):
        pipeline.ask([picture()], "What is this?")

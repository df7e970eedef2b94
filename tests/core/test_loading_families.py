"""Families: what they prepare is what the model takes, token for token."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
)

from sage_core.errors import InputError, ModelError, OptionError
from sage_core.media import Clip, Picture
from sage_core.models.checkpoint import load_config, load_tokenizer
from sage_core.models.families import Family, find_family
from sage_core.models.families.base import expand
from sage_core.models.families.llava_onevision import LlavaOnevision
from tests.core.saved_pair import make_config, make_model, make_tokenizer, save

GRID = ((32, 32), (32, 64), (64, 32), (64, 64), (32, 96), (96, 32), (96, 96), (32, 320))
IMAGE, VIDEO = 3, 4  # token ids of the placeholders


def picture(width: int = 50, height: int = 40, seed: int = 0) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)
    return Picture(Image.fromarray(pixels), f"picture {seed}")


def clip(frames: int = 5, width: int = 48, height: int = 36, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, height, width, 3))
    times = np.arange(frames) / 4
    return Clip(pixels.astype(np.uint8), times, 4.0, frames / 4, f"clip {seed}")


@pytest.fixture(scope="module")
def model() -> LlavaOnevisionForConditionalGeneration:
    return make_model(make_config(2, grid=GRID), 0)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, model: LlavaOnevisionForConditionalGeneration
) -> Path:
    return save(tmp_path_factory.mktemp("onevision"), model, make_tokenizer())


@pytest.fixture(scope="module")
def family(folder: Path) -> LlavaOnevision:
    config = load_config(folder)
    found = find_family(config)
    assert found is LlavaOnevision
    return LlavaOnevision(folder, config, load_tokenizer(folder))


MEDIA: dict[str, list[Any]] = {
    "nothing": [],
    "a picture": [picture()],
    "a wide picture": [picture(300, 30)],
    "a tall picture": [picture(20, 90)],
    "two pictures": [picture(), picture(90, 20, 1)],
    "three pictures": [picture(), picture(90, 20, 1), picture(20, 60, 2)],
    "a clip": [clip()],
    "a clip of one frame": [clip(1)],
    "clips of different lengths": [clip(3), clip(6, 20, 50, 1)],
    "a picture and a clip": [picture(), clip()],
    "clips and pictures": [clip(), picture(), clip(2, seed=3), picture(70, 50, 4)],
}


@pytest.mark.parametrize("name", MEDIA)
def test_the_model_takes_what_the_family_prepares(
    name: str, family: LlavaOnevision, model: LlavaOnevisionForConditionalGeneration
) -> None:
    """The model itself refuses a wrong number of placeholders."""
    inputs = family.prepare(MEDIA[name], "What is it?")
    with torch.inference_mode():
        logits = model(**inputs).logits
    assert logits.shape[:2] == inputs["input_ids"].shape
    assert torch.isfinite(logits).all()
    assert inputs["attention_mask"].shape == inputs["input_ids"].shape
    assert bool(inputs["attention_mask"].all())
    text = family.tokenizer.decode(inputs["input_ids"][0])
    assert text.startswith("<|im_start|>user ")
    assert text.endswith("\nWhat is it?<|im_end|>\n<|im_start|>assistant\n")


@settings(deadline=None, max_examples=60)
@given(width=st.integers(1, 700), height=st.integers(1, 700))
def test_tokens_of_a_picture_are_those_of_transformers_processor(
    family: LlavaOnevision, width: int, height: int
) -> None:
    """Its processor cannot be made without torchvision; its arithmetic can be asked."""
    if max(width, height) > 200 * min(width, height):
        return
    reference: Any = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)
    reference.image_processor = SimpleNamespace(image_grid_pinpoints=[list(g) for g in GRID])
    reference.num_image_tokens = family.side**2
    reference.vision_aspect_ratio = "anyres_max_9"
    expected = reference._get_number_of_features(height, width, 32, 32)
    assert family.image_tokens((width, height), 1) == expected


def test_frames_are_resized_and_normalised_without_tiles(family: LlavaOnevision) -> None:
    """Against Pillow's own resize, as the processor's configuration says."""
    shown = clip(3, 50, 40)
    prepared = family.prepare([shown], "x")["pixel_values_videos"]
    assert prepared.shape == (1, 3, 3, 32, 32)
    assert prepared.dtype == torch.float32
    for frame, tensor in zip(shown.frames, prepared[0], strict=True):
        small = Image.fromarray(frame).resize((32, 32), Image.Resampling.BICUBIC)
        expected = np.asarray(small, np.float32).transpose(2, 0, 1) / 127.5 - 1
        assert np.abs(tensor.numpy() - expected).max() < 1e-5


def test_a_shorter_clip_shows_frames_twice(family: LlavaOnevision) -> None:
    short, long = clip(2), clip(4, seed=1)
    together = family.prepare([short, long], "x")["pixel_values_videos"]
    alone = family.prepare([short], "x")["pixel_values_videos"]
    assert together.shape[:2] == (2, 4)
    assert torch.equal(together[0, [0, 3]], alone[0])


def test_order_and_counts_of_placeholders(family: LlavaOnevision) -> None:
    ids = family.prepare([clip(2), picture(), picture(seed=1)], "x")["input_ids"][0].tolist()
    assert ids.count(VIDEO) == family.video_tokens(2) == 2 * 4 + 1
    assert ids.count(IMAGE) == 2 * (16 + 1)
    assert ids.index(VIDEO) < ids.index(IMAGE)


@pytest.mark.parametrize("placeholder", ["<image>", "<video>"])
def test_a_prompt_cannot_smuggle_in_a_placeholder(family: LlavaOnevision, placeholder: str) -> None:
    with pytest.raises(OptionError, match="may not contain"):
        family.prepare([picture()], f"what does {placeholder} mean?")


def test_a_template_that_forgets_the_picture_is_refused(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = "{{ messages[0]['content'][-1]['text'] }}"
    blind = LlavaOnevision(folder, load_config(folder), tokenizer)
    with pytest.raises(ModelError, match="asks for 0 images, not 1"):
        blind.prepare([picture()], "x")


def test_the_processors_own_template_is_preferred(folder: Path, tmp_path: Path) -> None:
    """Older checkpoints keep it beside the tokenizer's text-only one."""
    for item in folder.iterdir():
        (tmp_path / item.name).write_bytes(item.read_bytes())
    template = "{{ '<image>old: ' + messages[0]['content'][-1]['text'] }}"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    old = LlavaOnevision(tmp_path, load_config(tmp_path), load_tokenizer(tmp_path))
    ids = old.prepare([picture()], "x")["input_ids"][0]
    assert old.tokenizer.decode(ids[ids != IMAGE]) == "old: x"


def test_expand() -> None:
    assert expand("a#b#c", "#", [2, 3], "things") == "a##b###c"
    assert expand("abc", "#", [], "things") == "abc"
    with pytest.raises(ModelError):
        expand("a#b", "#", [], "things")


@pytest.mark.parametrize("strategy", ["default", "full"])
def test_llava(strategy: str, tmp_path: Path) -> None:
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    text = LlamaConfig(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        vision_feature_select_strategy=strategy,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = {"image_processor_type": "CLIPImageProcessor"} | size
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    config = load_config(tmp_path)
    family = find_family(config)(tmp_path, config, load_tokenizer(tmp_path))
    assert type(family).__name__ == "Llava"
    with torch.inference_mode():
        for media in ([], [picture()], [picture(), picture(90, 30, 1)], [clip(3)]):
            inputs = family.prepare(media, "What is it?")
            assert torch.isfinite(model(**inputs).logits).all()


def test_text_only(folder: Path) -> None:
    config = LlamaConfig()
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
    )
    family = find_family(config)(folder, config, tokenizer)
    ids = family.prepare([], "What is it?")["input_ids"]
    assert tokenizer.decode(ids[0]) == "user: What is it?"
    with pytest.raises(InputError, match="picture 0: llama models do not support images"):
        family.prepare([picture()], "What is it?")


def test_a_family_that_is_not_there() -> None:
    config: Any = SimpleNamespace(model_type="martian", vision_config=object())
    with pytest.raises(ModelError, match="martian are not supported"):
        find_family(config)


def test_the_beginning_is_not_written_twice(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    seen: dict[str, bool] = {}

    class Recording:
        bos_token = "<s>"
        chat_template = "{{ x }}"

        def __call__(self, text: str, add_special_tokens: bool, **_: object) -> Any:
            seen[text] = add_special_tokens
            return tokenizer(text, return_tensors="pt")

    recording = Recording()
    family: Any = SimpleNamespace(tokenizer=recording, _tokenize=recording, chat_template="{{ x }}")
    Family.encode(family, "<s>hello")
    Family.encode(family, "hello")
    assert seen == {"<s>hello": False, "hello": True}

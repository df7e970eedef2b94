"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL from files to text: patches, times, tokens, exactness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from sage_core.media import Clip, Picture
from sage_core.models.checkpoint import load_config, load_model, load_tokenizer
from sage_core.models.families import find_family
from sage_core.pipeline import load
from tests.core.saved_pair import make_tokenizer
from tests.tiny import FAMILIES
from tests.tiny.families import HYBRID
from tests.tiny.pairs import _randomise

PATCH = 4
NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5")
MODELS = FAMILIES | HYBRID
SPECIAL = (  # in the order of the tiny models' token ids
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif p['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _save(folder: Path, name: str, layers: int, seed: int) -> None:
    config = MODELS[name].config(layers)
    config.text_config.vocab_size = 280
    model = MODELS[name].model(config).eval()
    _randomise(model, torch.Generator().manual_seed(seed))
    model.generation_config = GenerationConfig(eos_token_id=[2, 0], pad_token_id=0)
    model.save_pretrained(folder)
    make_tokenizer(special=SPECIAL, template=TEMPLATE).save_pretrained(folder)
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 64,
        "max_pixels": 1024,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    video = {"size": {"shortest_edge": 64, "longest_edge": 2048}}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video), encoding="utf-8")


@pytest.fixture(scope="module", params=NAMES)
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    _save(folder / "target", request.param, 2, 0)
    _save(folder / "draft", request.param, 1, 1)
    return folder


def _family(pair: Path) -> Any:
    config = load_config(pair / "target")
    return find_family(config)(pair / "target", config, load_tokenizer(pair / "target"))


def _picture(width: int, height: int, seed: int = 0) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)
    return Picture(Image.fromarray(pixels), f"picture {seed}")


def _clip(frames: int, width: int = 24, height: int = 16, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, height, width, 3))
    times = 1.0 + np.arange(frames) / 2  # two frames a second, from the first second on
    return Clip(pixels.astype(np.uint8), times, 24.0, 9.0, f"clip {seed}")


MEDIA: dict[str, list[Any]] = {
    "nothing": [],
    "a picture": [_picture(40, 24)],
    "pictures of two sizes": [_picture(40, 24), _picture(16, 64, 1)],
    "a clip": [_clip(6)],
    "an odd number of frames": [_clip(5)],
    "one frame": [_clip(1)],
    "a picture and two clips": [_picture(24, 24), _clip(4), _clip(3, 16, 32, 1)],
}


@pytest.mark.parametrize("media", MEDIA.values(), ids=MEDIA.keys())
def test_the_text_is_the_target_s_own(pair: Path, media: list[Any]) -> None:
    pipeline = load(pair / "target", pair / "draft")
    result = pipeline.ask(media, "What is this?", max_new_tokens=24)
    family = _family(pair)
    inputs = family.prepare(media, "What is this?")

    target = load_model(pair / "target")
    ids = target.generate(**inputs, do_sample=False, max_new_tokens=24)
    assert list(result.tokens) == ids[0, inputs["input_ids"].shape[1] :].tolist()
    assert len(set(result.tokens)) > 1, "a text of one token shows little"


def test_clip_patches_are_those_of_a_literal_reading(pair: Path) -> None:
    """Against the definition: pixels by (time, window, patch, channel, slot, row, column)."""
    family = _family(pair)
    clip = _clip(6)
    values, grid = family._patches(clip)
    times, height, width = grid
    assert (times, height, width) == (3, *(n // PATCH for n in _resized(family, clip)))
    frames = _normalised(family, clip, height * PATCH, width * PATCH)
    row = 0
    for time in range(times):
        for top in range(0, height, 2):
            for left in range(0, width, 2):
                for dy in range(2):
                    for dx in range(2):
                        y, x = (top + dy) * PATCH, (left + dx) * PATCH
                        block = frames[2 * time : 2 * time + 2, :, y : y + PATCH, x : x + PATCH]
                        expected = block.transpose(1, 0, 2, 3).reshape(-1)
                        assert np.allclose(values[row].numpy(), expected, atol=1e-5)
                        row += 1
    assert row == len(values)


def test_patches_made_in_parts_are_those_made_at_once(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, clip = _family(pair), _clip(7)
    whole, grid = family._patches(clip)
    monkeypatch.setattr("sage_core.models.families.qwen2_vl.AT_ONCE", 1)
    parts, same = family._patches(clip)
    assert same == grid and torch.equal(parts, whole)


def _resized(family: Any, clip: Clip) -> tuple[int, int]:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    pixels = family._frame_pixels(len(clip.frames))
    return smart_resize(
        clip.size[1],
        clip.size[0],
        factor=2 * PATCH,
        min_pixels=pixels["shortest_edge"],
        max_pixels=pixels["longest_edge"],
    )


def _normalised(family: Any, clip: Clip, height: int, width: int) -> np.ndarray:
    """(frames, 3, height, width): resized by Pillow, scaled to [-1, 1]."""
    resample = Image.Resampling(int(family.image_processor.resample))
    frames = []
    for frame in clip.frames:
        resized = Image.fromarray(frame).resize((width, height), resample)
        frames.append((np.asarray(resized, np.float32) / 255 - 0.5) / 0.5)
    return np.stack(frames).transpose(0, 3, 1, 2)


def test_a_clip_s_size_bounds_follow_the_family(pair: Path) -> None:
    """Qwen2's bounds hold for a frame, Qwen3's for the whole clip."""
    family = _family(pair)
    many = family.prepare([_clip(16, 32, 32)], "x")["video_grid_thw"][0]
    few = family.prepare([_clip(2, 32, 32)], "x")["video_grid_thw"][0]
    shrinks = family.config.model_type.startswith("qwen3")
    assert (int(many[1:].prod()) < int(few[1:].prod())) == shrinks


def test_times_are_told_as_each_family_tells_them(pair: Path) -> None:
    family = _family(pair)
    inputs = family.prepare([_clip(5)], "Well?")
    text = family.tokenizer.decode(inputs["input_ids"][0])
    if family.config.model_type.startswith("qwen3"):
        # Frames at 1.0, 1.5 | 2.0, 2.5 | 3.0 and its repetition.
        for told in ("<1.2 seconds><|vision_start|>", "<2.2 seconds>", "<3.0 seconds>"):
            assert told in text
        assert "<|vision_start|><1.2 seconds>" in text, "the template's own frame stays around"
        assert text.count("<|vision_end|>") == 4
    else:
        assert "seconds" not in text
        seconds = inputs.get("second_per_grid_ts")
        if family.config.model_type == "qwen2_5_vl":
            assert seconds.tolist() == [1.0]  # two frames a group at two a second
        else:
            assert seconds is None


def test_picture_tokens_are_transformers_own(pair: Path) -> None:
    from transformers import Qwen2_5_VLProcessor

    class WithoutVideo(Qwen2_5_VLProcessor):
        """The processor as it is where torchvision is missing: no video part to check."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return type(argument)

    family = _family(pair)
    processor = WithoutVideo(family.image_processor, family.tokenizer, None)
    pictures = [_picture(40, 24), _picture(16, 64, 1)]
    messages = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Well?"}],
        }
    ]
    text = family.tokenizer.apply_chat_template(
        messages, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    theirs = processor(text=[text], images=[p.image for p in pictures], return_tensors="pt")
    ours = family.prepare(pictures, "Well?")
    assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()
    assert torch.equal(ours["pixel_values"], theirs["pixel_values"])
    assert ours["image_grid_thw"].tolist() == theirs["image_grid_thw"].tolist()
    assert ours["mm_token_type_ids"].tolist() == theirs["mm_token_type_ids"].tolist()

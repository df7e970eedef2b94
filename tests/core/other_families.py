"""Tiny checkpoints of families that sage has no code of its own for, with their processors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as tf

from tests.core.saved_families import Saved, make_tokenizer
from tests.tiny.families import TEXT
from tests.tiny.pairs import _randomise

VOCAB = 320
TEXT_CONFIG = TEXT | {"vocab_size": VOCAB, "num_hidden_layers": 2}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 2, "image_size": 16, "patch_size": 4}  # fmt: skip
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {% for p in m.content %}"
    "{{ IMAGE if p.type == 'image' else p.text }}{% endfor %};\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@dataclass(frozen=True)
class Other:
    """A tiny model of another family: its configuration, processors and tokens."""

    model: type[Any]
    config: Any
    pixels: dict[str, Any]
    processor: dict[str, Any] = field(default_factory=dict)
    written: str = "<image>"
    """What the chat template writes for a picture."""
    special: tuple[str, ...] = ()
    named: dict[str, str] = field(default_factory=dict)
    """Tokens that the processor asks the tokenizer for by name."""


def _idefics3() -> Other:
    config = tf.Idefics3Config(
        vision_config=VISION,
        text_config={"model_type": "llama", **TEXT_CONFIG},
        image_token_id=3,
        scale_factor=2,
    )
    pixels = {"image_processor_type": "Idefics3ImageProcessor", "size": {"longest_edge": 32},
              "max_image_size": {"longest_edge": 16}, **HALF}  # fmt: skip
    special = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
               *(f"<row_{r + 1}_col_{c + 1}>" for r in range(6) for c in range(6)))  # fmt: skip
    return Other(
        tf.Idefics3ForConditionalGeneration, config, pixels, {"image_seq_len": 4}, special=special
    )


def llava_next() -> Other:
    config = tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(**VISION),
        text_config=tf.LlamaConfig(**TEXT_CONFIG),
        image_token_index=3,
        image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
        image_seq_length=16,
    )
    pixels = {"image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": 16},
              "crop_size": {"height": 16, "width": 16},
              "image_grid_pinpoints": [[16, 32], [32, 16], [32, 32]]}  # fmt: skip
    more = {"patch_size": 4, "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1}  # fmt: skip
    return Other(tf.LlavaNextForConditionalGeneration, config, pixels, more)


def _internvl() -> Other:
    config = tf.InternVLConfig(
        vision_config=tf.InternVLVisionConfig(**VISION),
        text_config=tf.Qwen2Config(**TEXT_CONFIG),
        image_token_id=3,
        image_seq_length=4,
    )
    pixels = {"image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": True,
              "size": {"height": 16, "width": 16}, **HALF}  # fmt: skip
    named = {"start_image_token": "<img>", "end_image_token": "</img>",
             "context_image_token": "<image>", "video_token": "<video>"}  # fmt: skip
    return Other(
        tf.InternVLForConditionalGeneration,
        config,
        pixels,
        {"image_seq_length": 4},
        special=("<img>", "</img>", "<video>"),
        named=named,
    )


def _gemma3() -> Other:
    config = tf.Gemma3Config(
        vision_config=tf.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config={**TEXT_CONFIG, "head_dim": 16, "sliding_window": 8},
        mm_tokens_per_image=4,
        image_token_index=3,
    )
    pixels = {"image_processor_type": "Gemma3ImageProcessor",
              "size": {"height": 16, "width": 16}, **HALF}  # fmt: skip
    named = {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<image>"}
    return Other(
        tf.Gemma3ForConditionalGeneration,
        config,
        pixels,
        {"image_seq_length": 4},
        "<boi>",
        special=("<boi>", "<eoi>"),
        named=named,
    )


def _paligemma() -> Other:
    config = tf.PaliGemmaConfig(
        vision_config=tf.SiglipVisionConfig(**VISION, vision_use_head=False, projection_dim=64),
        text_config={"model_type": "gemma", **TEXT_CONFIG, "head_dim": 16},
        image_token_index=3,
        projection_dim=64,
        hidden_size=64,
    )
    pixels = {"image_processor_type": "SiglipImageProcessor", "image_seq_length": 16,
              "size": {"height": 16, "width": 16}, **HALF}  # fmt: skip
    return Other(tf.PaliGemmaForConditionalGeneration, config, pixels)


def save(folder: Path, other: Other, layers: int, seed: int) -> Path:
    """One checkpoint of ``layers`` layers."""
    torch.manual_seed(seed)
    config, text = other.config, other.config.text_config
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    text.num_hidden_layers = layers
    model = other.model(config).eval()
    _randomise(model, torch.Generator().manual_seed(seed))
    model.generation_config = tf.GenerationConfig(eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    saved = Saved(
        ("<pad>", "<s>", "</s>", "<image>", *other.special),
        TEMPLATE.replace("IMAGE", repr(other.written)),
        begins=True,
    )
    make_tokenizer(saved).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(settings | other.named), encoding="utf-8")
    for name, content in (("preprocessor", other.pixels), ("processor", other.processor)):
        (folder / f"{name}_config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


FOLLOWED = {"idefics3": _idefics3, "llava_next": llava_next, "internvl": _internvl,
            "gemma3": _gemma3}  # fmt: skip
REFUSED = {
    "paligemma": (_paligemma, "a tree does not reproduce its attention"),
}

"""Tiny checkpoints of every family on disk: real configuration classes, special tokens, templates.

The chat templates render what the published ones do, written anew in a few lines each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from sage_core.media import Clip, Picture
from tests.tiny.families import FAMILIES, TEXT
from tests.tiny.pairs import _randomise

VOCAB = 280

_PARTS = (
    "{% macro parts(content, image, video) %}{% if content is string %}{{ content }}{% else %}"
    "{% for p in content %}{% if p.type == 'image' %}{{ image }}"
    "{% elif p.type == 'video' %}{{ video }}{% else %}{{ p.text }}{% endif %}{% endfor %}"
    "{% endif %}{% endmacro %}"
)
_TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ parts(m.content,"
    " '<|vision_start|><|image_pad|><|vision_end|>', '<|vision_start|><|video_pad|><|vision_end|>')"
    " }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3_VL = _PARTS + _TURNS
QWEN2 = (
    _PARTS
    + "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant."
    + "<|im_end|>\n{% endif %}"
    + _TURNS
)
QWEN3 = (  # what an earlier answer thought is left out
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ONEVISION = (  # earlier answers stand behind 'assistant \n', the next one behind 'assistant\n'
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' }}"
    "{% for p in m.content if p.type == 'image' %}<image>{% endfor %}"
    "{% for p in m.content if p.type == 'video' %}<video>{% endfor %}"
    "{% for p in m.content if p.type == 'text' %}{{ '\n' + p.text }}{% endfor %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAVA = (
    "{% for m in messages %}{{ m.role.upper() + ': ' }}"
    "{% for p in m.content if p.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for p in m.content if p.type == 'text' %}{{ p.text + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + "
    "'<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)

_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>",
         "<|vision_start|>", "<|vision_end|>")  # fmt: skip
_QWEN_PIXELS: dict[str, Any] = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": 64,
    "max_pixels": 1024,
    "patch_size": 4,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
_LLAVA_PIXELS: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 16},
    "crop_size": {"height": 16, "width": 16},
}
_ONEVISION_PIXELS: dict[str, Any] = {
    "image_processor_type": "LlavaOnevisionImageProcessor",
    "size": {"height": 16, "width": 16},
    "image_grid_pinpoints": [[16, 16], [16, 32], [32, 16], [32, 32]],
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "do_pad": True,
}


@dataclass(frozen=True)
class Saved:
    """What a family's checkpoints hold beside their weights."""

    special: tuple[str, ...]
    """In the order of the tiny models' token ids: padding, beginning, end, picture, clip..."""
    template: str
    pixels: dict[str, Any] = field(default_factory=dict)
    metaspace: bool = False
    """Words carry the space before them, and a text is given one, as with SentencePiece."""
    begins: bool = False
    """The tokenizer writes the beginning token itself."""
    ends: tuple[int, ...] = (2, 0)


SAVED: dict[str, Saved] = {
    "llava": Saved(("<pad>", "<s>", "</s>", "<image>"), LLAVA, _LLAVA_PIXELS, True, True, (2,)),
    "llava_onevision": Saved(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"),
        ONEVISION,
        _ONEVISION_PIXELS,
    ),
    "qwen2_vl": Saved(_QWEN, QWEN2, _QWEN_PIXELS),
    "qwen2_5_vl": Saved(_QWEN, QWEN2, _QWEN_PIXELS),
    "qwen3_vl": Saved(_QWEN, QWEN3_VL, _QWEN_PIXELS),
    "qwen3_vl_moe": Saved(_QWEN, QWEN3_VL, _QWEN_PIXELS),
    "llama": Saved(
        ("<|finetune_right_pad_id|>", "<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>",
         "<|eom_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        LLAMA3,
        begins=True,
        ends=(3, 4, 2),
    ),
    "qwen2": Saved(_QWEN[:3], QWEN2),
    "qwen3": Saved(_QWEN[:3], QWEN3),
}  # fmt: skip
VISION = tuple(name for name, saved in SAVED.items() if saved.pixels)


def make_tokenizer(saved: Saved) -> tf.PreTrainedTokenizerFast:
    """Bytes as tokens, or letters behind a metaspace; the special tokens first."""
    if saved.metaspace:
        letters = ["▁", "\n", *map(chr, range(33, 127))]
    else:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {token: i for i, token in enumerate([*saved.special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    if saved.metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    begin = saved.special[1]
    if saved.begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, 1)]
        )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=saved.special[0],
        bos_token=begin if saved.begins else None,
        eos_token=saved.special[2],
        additional_special_tokens=list(saved.special[3:]),
        clean_up_tokenization_spaces=False,
        chat_template=saved.template,
    )


def _config(name: str, layers: int) -> Any:
    if name == "qwen3":
        text = TEXT | {"vocab_size": VOCAB, "head_dim": 16}
        return tf.Qwen3Config(num_hidden_layers=layers, **text)
    config = FAMILIES[name].config(layers)
    getattr(config, "text_config", config).vocab_size = VOCAB
    return config


def _model(name: str, layers: int, seed: int) -> Any:
    kind = tf.Qwen3ForCausalLM if name == "qwen3" else FAMILIES[name].model
    torch.manual_seed(seed)
    model = kind(_config(name, layers)).eval()
    _randomise(model, torch.Generator().manual_seed(seed))
    return model


def save(folder: Path, name: str, layers: int, seed: int, **generation: Any) -> Path:
    """A checkpoint of family ``name``; ``generation`` is added to its generation config."""
    saved = SAVED[name]
    model = _model(name, layers, seed)
    settings = {"eos_token_id": list(saved.ends), "pad_token_id": 0} | generation
    model.generation_config = tf.GenerationConfig(**settings)
    model.save_pretrained(folder)
    make_tokenizer(saved).save_pretrained(folder)
    if saved.pixels:
        file = folder / "preprocessor_config.json"
        file.write_text(json.dumps(saved.pixels), encoding="utf-8")
    if name.startswith("qwen") and saved.pixels:
        video = {"size": {"shortest_edge": 64, "longest_edge": 2048}}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(video), encoding="utf-8")
    return folder


def save_pair(folder: Path, name: str, **generation: Any) -> Path:
    """``target`` and ``draft`` in ``folder``."""
    save(folder / "target", name, 2, 0, **generation)
    save(folder / "draft", name, 1, 1)
    return folder


def picture(width: int = 40, height: int = 24, seed: int = 0) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)
    return Picture(Image.fromarray(pixels), f"picture {seed}")


def clip(frames: int = 4, width: int = 24, height: int = 16, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, height, width, 3))
    times = 1.0 + np.arange(frames) / 2  # two frames a second, from the first second on
    return Clip(pixels.astype(np.uint8), times, 24.0, 9.0, f"clip {seed}")

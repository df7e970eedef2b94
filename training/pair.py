"""The two models of the pair: configurations, chat template, checkpoints for transformers."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from training.world.render import PATCHES, PIXELS

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] }}"
    "{% if message['role'] != 'assistant' %}{{ ' ' }}{% endif %}"
    "{% if message['content'] is string %}{{ '\\n' + message['content'] }}{% else %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ '<video>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\\n' + part['text'] }}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class PairConfig:
    """Sizes of the pair."""

    hidden: int = 256
    layers: int = 16
    inner: int = 576
    heads: int = 4
    draft_layers: int = 1
    draft_inner: int = 768
    vision_hidden: int = 192
    vision_inner: int = 640
    vision_layers: int = 4
    vision_heads: int = 6
    positions: int = 8192


def model_config(
    sizes: PairConfig, vocabulary: int, layers: int, inner: int
) -> LlavaOnevisionConfig:
    """The configuration of one model; special tokens are the first of the vocabulary."""
    ids = {token: i for i, token in enumerate(SPECIAL)}
    vision = SiglipVisionConfig(
        hidden_size=sizes.vision_hidden,
        intermediate_size=sizes.vision_inner,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_heads,
        image_size=PIXELS,
        patch_size=PIXELS // PATCHES,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
        max_position_embeddings=sizes.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[PIXELS, PIXELS]],
        tie_word_embeddings=True,
    )


def build_target(
    sizes: PairConfig, vocabulary: int, seed: int
) -> LlavaOnevisionForConditionalGeneration:
    torch.manual_seed(seed)
    config = model_config(sizes, vocabulary, sizes.layers, sizes.inner)
    return LlavaOnevisionForConditionalGeneration(config)


def build_draft(
    sizes: PairConfig, vocabulary: int, seed: int
) -> LlavaOnevisionForConditionalGeneration:
    torch.manual_seed(seed + 1)
    config = model_config(sizes, vocabulary, sizes.draft_layers, sizes.draft_inner)
    return LlavaOnevisionForConditionalGeneration(config)


def tower_features(
    model: LlavaOnevisionForConditionalGeneration, pixels: torch.Tensor
) -> torch.Tensor:
    """(images, 3, 96, 96) to (images, 36, vision hidden), before the projector."""
    out = model.model.vision_tower(pixels, output_hidden_states=True)
    return out.hidden_states[-1]


def wrap_tokenizer(tokenizer: Tokenizer, sizes: PairConfig) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        model_max_length=sizes.positions,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def save_model(
    model: LlavaOnevisionForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
) -> None:
    """Write a complete checkpoint in bfloat16, replacing an older one."""
    scratch = folder.with_name(folder.name + ".new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    copy = LlavaOnevisionForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    copy.tie_weights()
    torch.nn.Module.to(copy, torch.bfloat16)
    end, pad = SPECIAL.index("<|im_end|>"), SPECIAL.index("<|endoftext|>")
    copy.generation_config = GenerationConfig(
        eos_token_id=[end, pad], pad_token_id=pad, do_sample=False
    )
    copy.save_pretrained(scratch)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(scratch)
    pixels = {"height": PIXELS, "width": PIXELS}
    shared: dict[str, object] = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": pixels,
    }
    _write(
        scratch / "preprocessor_config.json",
        shared
        | {
            "do_pad": True,
            "image_grid_pinpoints": [[PIXELS, PIXELS]],
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "processor_class": "LlavaOnevisionProcessor",
        },
    )
    _write(
        scratch / "video_preprocessor_config.json",
        shared
        | {
            "video_processor_type": "LlavaOnevisionVideoProcessor",
            "processor_class": "LlavaOnevisionProcessor",
        },
    )
    _write(
        scratch / "processor_config.json",
        {
            "processor_class": "LlavaOnevisionProcessor",
            "image_token": "<image>",
            "video_token": "<video>",
            "num_image_tokens": PATCHES**2,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
        },
    )
    for path in scratch.iterdir():
        path.chmod(0o644)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    shutil.rmtree(old, ignore_errors=True)

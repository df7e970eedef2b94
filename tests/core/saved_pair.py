"""A tiny random LLaVA-OneVision pair written to disk as real checkpoints are, for loading tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
PIXELS, PATCH = 32, 8
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>"
    "{% elif p['type'] == 'video' %}<video>{% else %}{{ '\\n' + p['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(
    extra: tuple[str, ...] = (),
    special: tuple[str, ...] = SPECIAL,
    template: str = TEMPLATE,
) -> PreTrainedTokenizerFast:
    """Bytes as tokens, behind the special ones: any text, and characters split over tokens."""
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *extra]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(special[1:]),
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = template
    return wrapped


def make_config(
    layers: int = 2, vocabulary: int = 264, grid: tuple[tuple[int, int], ...] = ((32, 32), (32, 64))
) -> LlavaOnevisionConfig:
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=PIXELS,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=SPECIAL.index("<image>"),
        video_token_id=SPECIAL.index("<video>"),
        vision_feature_layer=-1,
        image_grid_pinpoints=[list(size) for size in grid],
        tie_word_embeddings=True,
    )


def make_model(config: LlavaOnevisionConfig, seed: int) -> LlavaOnevisionForConditionalGeneration:
    """Random, but peaked enough that its greedy text does not settle on one token."""
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "vision" not in name:
                parameter.mul_(6.0)
    model.generation_config = GenerationConfig(eos_token_id=[2, 0], pad_token_id=0, do_sample=False)
    return model


def save(folder: Path, model: LlavaOnevisionForConditionalGeneration, tokenizer: object) -> Path:
    """One checkpoint, complete with the processor's files."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    processor = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "processor_class": "LlavaOnevisionProcessor",
        "image_grid_pinpoints": model.config.image_grid_pinpoints,
        "size": {"height": PIXELS, "width": PIXELS},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "do_pad": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def save_pair(folder: Path, same_tower: bool = True) -> Path:
    """``target`` and ``draft`` in ``folder``, with equal vision towers unless told otherwise."""
    tokenizer = make_tokenizer()
    target, draft = make_model(make_config(2), 0), make_model(make_config(1, 280), 1)
    if same_tower:
        draft.model.vision_tower.load_state_dict(target.model.vision_tower.state_dict())
    save(folder / "target", target, tokenizer)
    save(folder / "draft", draft, tokenizer)
    return folder

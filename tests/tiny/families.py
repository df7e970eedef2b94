"""Configurations of tiny models, one per family, each of the family's real configuration class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers as tf

VOCAB = 160
PAD, BOS, EOS, IMAGE, VIDEO, VISION_START, VISION_END = range(7)
FIRST_WORD = 8
"""Ids below are special tokens, which the tiny models never emit; ids from here on are words."""

TEXT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "tie_word_embeddings": False,
}
QWEN_IDS: dict[str, Any] = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
    "tie_word_embeddings": False,
}
# head_dim 16 leaves 8 rotary frequencies, shared among time, height and width.
MROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def _llava(layers: int) -> tf.PreTrainedConfig:
    vision = tf.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
    )
    return tf.LlavaConfig(
        vision_config=vision,
        text_config=tf.LlamaConfig(num_hidden_layers=layers, **TEXT),
        image_token_index=IMAGE,
        image_seq_length=16,
        tie_word_embeddings=False,
    )


def _llava_onevision(layers: int) -> tf.PreTrainedConfig:
    vision = tf.SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
        vision_use_head=False,
    )
    return tf.LlavaOnevisionConfig(
        vision_config=vision,
        text_config=tf.Qwen2Config(num_hidden_layers=layers, **TEXT),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[16, 16], [16, 32], [32, 16], [32, 32]],
        tie_word_embeddings=False,
    )


def _qwen2_vl(layers: int) -> tf.PreTrainedConfig:
    return tf.Qwen2VLConfig(
        text_config={"num_hidden_layers": layers, "rope_parameters": MROPE, **TEXT},
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 64,
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": 4,
        },
        **QWEN_IDS,
    )


def _qwen2_5_vl(layers: int) -> tf.PreTrainedConfig:
    return tf.Qwen2_5_VLConfig(
        text_config={"num_hidden_layers": layers, "rope_parameters": MROPE, **TEXT},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 4,
            "window_size": 16,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        },
        **QWEN_IDS,
    )


QWEN3_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
QWEN3_TEXT: dict[str, Any] = {
    "head_dim": 16,
    "rope_parameters": MROPE | {"mrope_interleaved": True},
}


def _qwen3_vl(layers: int) -> tf.PreTrainedConfig:
    text = {
        key: value for key, value in TEXT.items() if key not in ("bos_token_id", "eos_token_id")
    }
    return tf.Qwen3VLConfig(
        text_config={"num_hidden_layers": layers, **QWEN3_TEXT, **text},
        vision_config=dict(QWEN3_VISION),
        **QWEN_IDS,
    )


def _qwen3_vl_moe(layers: int) -> tf.PreTrainedConfig:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    return tf.Qwen3VLMoeConfig(
        text_config={"num_hidden_layers": layers, **experts, **QWEN3_TEXT, **TEXT},
        vision_config=dict(QWEN3_VISION),
        **QWEN_IDS,
    )


def _llama(layers: int) -> tf.PreTrainedConfig:
    return tf.LlamaConfig(num_hidden_layers=layers, **TEXT)


def _qwen2(layers: int) -> tf.PreTrainedConfig:
    return tf.Qwen2Config(num_hidden_layers=layers, **TEXT)


@dataclass(frozen=True)
class Family:
    """A model class, its tiny configuration by number of text layers, and the media it takes."""

    model: type[Any]
    config: Callable[[int], tf.PreTrainedConfig]
    kinds: tuple[str, ...]
    media: str = ""
    """How media become tensors: "tiles" (LLaVA), "grid" (Qwen2), "frames" (Qwen3) or nothing."""


ALL_KINDS = ("text", "image", "images", "video", "mixed")
FAMILIES: dict[str, Family] = {
    "llava": Family(tf.LlavaForConditionalGeneration, _llava, ("text", "image", "images"), "tiles"),
    "llava_onevision": Family(
        tf.LlavaOnevisionForConditionalGeneration, _llava_onevision, ALL_KINDS, "tiles"
    ),
    "qwen2_vl": Family(tf.Qwen2VLForConditionalGeneration, _qwen2_vl, ALL_KINDS, "grid"),
    "qwen2_5_vl": Family(tf.Qwen2_5_VLForConditionalGeneration, _qwen2_5_vl, ALL_KINDS, "grid"),
    "qwen3_vl": Family(tf.Qwen3VLForConditionalGeneration, _qwen3_vl, ALL_KINDS, "frames"),
    "qwen3_vl_moe": Family(
        tf.Qwen3VLMoeForConditionalGeneration, _qwen3_vl_moe, ALL_KINDS, "frames"
    ),
    "llama": Family(tf.LlamaForCausalLM, _llama, ("text",)),
    "qwen2": Family(tf.Qwen2ForCausalLM, _qwen2, ("text",)),
}


def _qwen3_5(layers: int) -> tf.PreTrainedConfig:
    rules = {"linear_num_value_heads": 4, "linear_num_key_heads": 2}
    sizes = {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    kinds = ["linear_attention"] * (layers - 1) + ["full_attention"]
    text = {k: v for k, v in TEXT.items() if k not in ("bos_token_id", "eos_token_id")}
    return tf.Qwen3_5Config(
        text_config={"num_hidden_layers": layers, "layer_types": kinds}
        | {**rules, **sizes, **QWEN3_TEXT, **text},
        vision_config={k: v for k, v in QWEN3_VISION.items() if k != "deepstack_visual_indexes"},
        **QWEN_IDS,
    )


HYBRID: dict[str, Family] = {
    "qwen3_5": Family(tf.Qwen3_5ForConditionalGeneration, _qwen3_5, ALL_KINDS, "frames"),
}
"""Families with a recurrent state, which not every test of `FAMILIES` needs."""

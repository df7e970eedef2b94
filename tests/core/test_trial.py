"""Models of many classes: their text is the one of `generate`, or they are refused by name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

import sage_core
from sage_core.engine import trial
from sage_core.engine.model_check import look, verdict_before_loading, verdict_of
from sage_core.errors import InputError, ModelError, OptionError, SageError, UnsupportedError
from sage_core.models.small_config import CUTS, context_length, cut, text_config
from tests.core.saved_families import SAVED, make_tokenizer
from tests.tiny.families import FAMILIES

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "intermediate_size": 48, "vocab_size": 96, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 95, "num_local_experts": 4,
}  # fmt: skip


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0, **more}}


LONG = {"short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    # name: class, fields, and what a refusal says; empty if it is followed
    "llama": ("Llama", {}, ""),
    "llama, linear": ("Llama", rope("linear"), ""),
    "llama, yarn": ("Llama", rope("yarn", original_max_position_embeddings=64), ""),
    "llama, llama3": (
        "Llama",
        rope("llama3", original_max_position_embeddings=24, low_freq_factor=1.0,
             high_freq_factor=4.0),
        "",
    ),
    "llama, dynamic": ("Llama", rope("dynamic"), ""),
    "llama, dynamic, beyond": (
        "Llama", rope("dynamic") | {"max_position_embeddings": 24}, "at most 5 new tokens"
    ),
    "llama, longrope": (
        "Llama", rope("longrope", original_max_position_embeddings=24, **LONG), "beyond 24 tokens"
    ),
    "mistral": ("Mistral", {"sliding_window": 12}, ""),
    "mistral, whole": ("Mistral", {"sliding_window": None}, ""),
    "mistral, wide": ("Mistral", {"sliding_window": 128}, ""),
    "mixtral": ("Mixtral", {"sliding_window": 12}, ""),
    "phi3": ("Phi3", {"sliding_window": 12}, ""),
    "starcoder2": ("Starcoder2", {"sliding_window": 12}, ""),
    "qwen2, windows": (
        "Qwen2", {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}, ""
    ),
    "gemma": ("Gemma", {}, ""),
    "cohere": ("Cohere", {}, ""),
    "granite": ("Granite", {"logits_scaling": 8.0}, ""),
    "olmo": ("Olmo", {}, ""),
    "phi": ("Phi", {}, ""),
    "stablelm": ("StableLm", {}, ""),
    "gpt-neox": ("GPTNeoX", {}, ""),
    "gpt2": ("GPT2", {}, ""),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}, ""),
    "falcon": ("Falcon", {"alibi": True}, "falcon models are not supported"),
    "bloom": ("Bloom", {}, "bloom models are not supported"),
    "mpt": ("Mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}, "mpt models"),
    "rwkv": ("Rwkv", {"attention_hidden_size": 32}, "rwkv models are not supported"),
    "mamba": ("Mamba", {}, "mamba models are not supported"),
}  # fmt: skip


def make(kind: str, fields: dict[str, Any], seed: int = 0) -> Any:
    """A small model with random weights."""
    config = getattr(tf, f"{kind}Config")
    known = config()
    sizes = {name: value for name, value in SIZES.items() if name in known.to_dict()} | fields
    if isinstance(getattr(config, "head_dim", None), property):
        sizes.pop("head_dim", None)
    torch.manual_seed(seed)
    model = tf.AutoModelForCausalLM.from_config(config(**sizes), dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3.0)
    return model


def ids(count: int) -> torch.Tensor:
    return torch.randint(3, 90, (1, count), generator=torch.Generator().manual_seed(1))


RULES: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}


def decoded(model: Any, prompt: torch.Tensor, draft: Any = "same", **rules: Any) -> torch.Tensor:
    chosen = copy.deepcopy(model) if draft == "same" else draft
    decoder = sage_core.SpeculativeDecoder(model, chosen, "static" if chosen else "autoregressive")
    mask = torch.ones_like(prompt)
    return decoder.generate(input_ids=prompt, attention_mask=mask, **{**RULES, **rules}).sequences


@pytest.mark.parametrize("name", CASES)
def test_a_text_is_the_models_own_or_the_model_is_refused(name: str) -> None:
    kind, fields, says = CASES[name]
    model, prompt = make(kind, fields), ids(20)
    if says:
        with pytest.raises(SageError, match=says):
            decoded(model, prompt)
        return
    own = model.generate(prompt, attention_mask=torch.ones_like(prompt), **RULES)
    assert torch.equal(decoded(model, prompt), own)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_their_own_pass_the_trial_before_loading(name: str) -> None:
    assert verdict_before_loading(FAMILIES[name].config(3), code=False) == trial.EXACT


def test_a_verdict_is_made_once_for_equal_configurations() -> None:
    made = []

    def build(config: Any) -> Any:
        made.append(config)
        return tf.LlamaForCausalLM(config)

    for theta in (10000.0, 10000.0, 20000.0):
        config = tf.LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": theta})
        assert trial.try_class("once", config, build) == trial.EXACT
    assert len(made) == 4  # twice each: measured, then built


def test_the_trial_leaves_the_random_state_and_the_configuration_alone() -> None:
    longer = rope("longrope", original_max_position_embeddings=24, **LONG)
    config = tf.LlamaConfig(**{**SIZES, **longer})
    before, state = config.to_json_string(), torch.random.get_rng_state()
    assert "beyond 24 tokens" in verdict_before_loading(config, code=False).reason
    assert config.to_json_string() == before
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "config",
    [tf.MistralConfig(), tf.Qwen3MoeConfig(), tf.DeepseekV3Config(), tf.GPT2Config(),
     tf.Qwen3VLConfig(), tf.Gemma3TextConfig()],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_a_cut_configuration_keeps_kinds_of_layers_and_the_order_of_lengths(config: Any) -> None:
    small = cut(config, CUTS[0])
    text, whole = text_config(small.config), text_config(config)
    assert text.num_hidden_layers <= 8
    assert set(getattr(text, "layer_types", None) or []) == set(
        getattr(whole, "layer_types", None) or []
    )
    own = [border.tokens for border in small.borders]
    assert own == sorted(own)
    assert [b.small for b in small.borders] == sorted(b.small for b in small.borders)
    assert small.longest <= 64


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [({}, 128), (rope("yarn", original_max_position_embeddings=100), 200), (rope("linear"), 256),
     (rope("dynamic"), 128)],
)  # fmt: skip
def test_the_context(fields: dict[str, Any], tokens: int) -> None:
    config = tf.LlamaConfig(**{**SIZES, **fields})
    assert context_length(config) == tokens


def test_a_draft_need_not_be_exact_but_must_run() -> None:
    model, prompt = make("Llama", {}), ids(20)
    own = model.generate(prompt, attention_mask=torch.ones_like(prompt), **RULES)
    assert torch.equal(decoded(model, prompt, make("Mistral", {"sliding_window": 12})), own)
    with pytest.raises(ModelError, match="bloom models are not supported"):
        decoded(model, prompt, make("Bloom", {}))


def test_a_draft_with_fewer_positions_stops_drafting() -> None:
    model, prompt = make("Llama", {}), ids(20)
    for positions in (30, 21, 20, 10):
        draft = make("GPT2", {"max_position_embeddings": positions})
        own = model.generate(prompt, attention_mask=torch.ones_like(prompt), **RULES)
        for policy in ("static", "sage"):
            decoder = sage_core.SpeculativeDecoder(model, draft, policy)
            got = decoder.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), **RULES
            )
            assert torch.equal(got.sequences, own)


@pytest.mark.parametrize("policy", ["static", "sage", "autoregressive"])
def test_a_table_of_positions_ends_a_text(policy: str) -> None:
    model, prompt = make("GPT2", {"max_position_embeddings": 32}), ids(20)
    fitting = {**RULES, "max_new_tokens": 13}  # the last token is not read
    own = model.generate(prompt, attention_mask=torch.ones_like(prompt), **fitting)
    decoder = sage_core.SpeculativeDecoder(model, copy.deepcopy(model), policy)
    got = decoder.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **RULES)
    assert torch.equal(got.sequences, own)
    assert (got.finish_reason, got.context_reached) == ("length", 32)


def test_a_text_continues_beyond_the_context_as_in_generate_and_says_so() -> None:
    model, prompt = make("Llama", {"max_position_embeddings": 32}), ids(20)
    decoder = sage_core.SpeculativeDecoder(model, copy.deepcopy(model), "sage")
    arguments = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
    got = decoder.generate(**arguments, **RULES)
    assert torch.equal(got.sequences, model.generate(**arguments, **RULES))
    assert got.context_reached == 32
    assert decoder.generate(**arguments, **{**RULES, "max_new_tokens": 5}).context_reached is None


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers() -> None:
    model = make("Llama", {"max_position_embeddings": 32})
    with pytest.raises(OptionError, match=r"33 tokens.*context has 32"):
        decoded(model, ids(33))
    from sage_core.engine.text_limits import refuse_long_prompt

    with pytest.raises(InputError, match=r"40 tokens \(30 of the files\).*context has 32"):
        refuse_long_prompt(model.config, 40, 30)
    with pytest.raises(OptionError, match=r"33 tokens.*context has 32"):
        refuse_long_prompt(model.config, 63, 30)
    refuse_long_prompt(model.config, 32, 30)


def test_states_that_cannot_be_followed_are_refused_by_name() -> None:
    model, prompt = make("Llama", {}), ids(20)
    model.set_attn_implementation("flex_attention")
    with pytest.raises(UnsupportedError, match=r"flex_attention.*sdpa"):
        decoded(model, prompt, None)
    model.set_attn_implementation("sdpa")

    model.train()  # without dropout nothing changes
    own = model.generate(prompt, attention_mask=torch.ones_like(prompt), **RULES)
    assert torch.equal(decoded(model, prompt), own)
    dropping = make("GPT2", {}).train()
    with pytest.raises(UnsupportedError, match=r"training mode.*model\.eval\(\)"):
        decoded(dropping, prompt)


def test_a_decoder_checks_the_state_of_its_models_at_each_text() -> None:
    model, prompt = make("Llama", {"attention_dropout": 0.1}), ids(20)
    decoder = sage_core.SpeculativeDecoder(model, copy.deepcopy(model), "static")
    mask = torch.ones_like(prompt)
    before = decoder.generate(input_ids=prompt, attention_mask=mask, **RULES).sequences

    def refused(says: str, kind: type[SageError] = UnsupportedError) -> None:
        with pytest.raises(kind, match=says):
            decoder.generate(input_ids=prompt, attention_mask=mask, **RULES)
        with pytest.raises(kind, match=says):
            decoder.generate_batch([{"input_ids": prompt, "attention_mask": mask, **RULES}] * 2)

    model.train()
    refused("training mode")
    model.eval()
    model.set_attn_implementation("flex_attention")
    refused("flex_attention")
    model.set_attn_implementation("sdpa")
    decoder.draft.set_attn_implementation("flex_attention")
    refused("flex_attention")
    decoder.draft.set_attn_implementation("sdpa")
    after = decoder.generate(input_ids=prompt, attention_mask=mask, **RULES).sequences
    assert torch.equal(after, before)
    torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)
    refused("llama models are not supported", ModelError)


def test_a_dynamically_quantized_draft_drafts() -> None:
    model, prompt = make("Llama", {}), ids(20)
    own = model.generate(prompt, attention_mask=torch.ones_like(prompt), **RULES)
    draft = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert torch.equal(decoded(model, prompt, draft), own)


def test_dynamic_quantization_is_refused_by_what_it_does() -> None:
    model = make("Llama", {})
    look(model)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ModelError, match="llama models are not supported"):
        decoded(quantized, ids(20), None)


def test_attention_that_differs_in_the_loaded_model_alone() -> None:
    """The class is exact; what has been done to this model is not."""
    model = make("Llama", {})
    layer = model.model.layers[1]
    forward = layer.forward

    def local(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return forward(hidden + hidden.mean(1, keepdim=True), *args, **kwargs)

    layer.forward = local
    assert verdict_of(model) == trial.EXACT
    with pytest.raises(ModelError, match="does not reproduce its own forward"):
        decoded(model, ids(20), None)


def test_a_class_that_cannot_be_built_small() -> None:
    def build(config: Any) -> Any:
        raise ValueError("not this way")

    plain = trial.try_class("unbuilt", tf.LlamaConfig(), build)
    assert plain == trial.EXACT  # the loaded model will show it
    windows = trial.try_class("unbuilt", tf.MistralConfig(sliding_window=64), build)
    assert "sliding_window of 64 cannot be tried" in windows.reason


def test_a_checkpoint_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    make(*CASES["llama, longrope"][:2]).save_pretrained(tmp_path)
    make_tokenizer(SAVED["llama"]).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="beyond 24 tokens"):
        sage_core.load(tmp_path, None)


def test_a_place_in_the_pass_that_is_taken_for_a_position_is_found() -> None:
    # Llama 4 scales queries by their place behind the cache.
    model = make("Llama4Text", {"attention_chunk_size": 16, "intermediate_size_mlp": 48,
                                "layer_types": ["chunked_attention", "full_attention"],
                                "no_rope_layers": [1, 0], "moe_layers": [1]})  # fmt: skip
    verdict = verdict_of(model)
    assert (verdict.reason, verdict.limit, verdict.limited_by) == ("", 4096, "floor_scale")
    model.config.floor_scale = 64
    assert "does not reproduce" in verdict_of(type(model)(model.config)).reason

"""Memory told from configurations, and the devices that a pair is given, on machines made up."""

from __future__ import annotations

from typing import Any

import pytest
import transformers as tf

from sage_core.errors import MemoryExhaustedError, OptionError
from sage_core.models import devices
from sage_core.models.devices import Device
from sage_core.models.memory_needs import Size, auto_class, measure
from sage_core.models.placement import PairSize, Placement, place
from sage_core.models.quantization import METHODS
from tests.tiny import FAMILIES

GIB = 2**30
BY_NAME = {method.name: method for method in METHODS}


def qwen2_5_vl_7b() -> Any:
    return tf.Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "max_position_embeddings": 128000,
        },
        vision_config={"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
        dtype="bfloat16",
        tie_word_embeddings=False,
    )


def llava_onevision_half_b() -> Any:
    text = tf.Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=152000,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    )
    vision = tf.SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=26,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )
    return tf.LlavaOnevisionConfig(
        vision_config=vision, text_config=text, tie_word_embeddings=True, dtype="float16"
    )


def qwen3_30b_a3b() -> Any:
    return tf.Qwen3MoeConfig(
        hidden_size=2048,
        num_hidden_layers=48,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        vocab_size=151936,
        max_position_embeddings=40960,
        tie_word_embeddings=False,
    )


@pytest.mark.parametrize(
    ("config", "published", "cache_of_a_token"),
    [
        (qwen2_5_vl_7b, 8.292e9, 28 * 2 * 4 * 128),
        (llava_onevision_half_b, 0.894e9, 24 * 2 * 2 * 64),
        (qwen3_30b_a3b, 30.53e9, 48 * 2 * 4 * 128),
    ],
    ids=["Qwen2.5-VL 7B", "LLaVA-OneVision 0.5B", "Qwen3 30B-A3B"],
)
def test_sizes_are_those_of_the_published_models(
    config: Any, published: float, cache_of_a_token: int
) -> None:
    size = measure("a model", config())
    assert size.linear + size.others == pytest.approx(published, rel=0.01)
    assert size.cache_values == cache_of_a_token
    assert size.need("bfloat16").weights == 2 * (size.linear + size.others)
    assert size.need("float32").cache == 2 * size.need("bfloat16").cache
    shrunk = size.need("bfloat16", BY_NAME["4bit"]).weights
    assert 0.25 * size.need("bfloat16").weights < shrunk
    assert (shrunk < 0.5 * size.need("bfloat16").weights) == ("moe" not in config().model_type)


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_those_of_the_models_themselves(family: str) -> None:
    import torch

    config = FAMILIES[family].config(3)
    told = measure("a model", config).need("float32")
    model = FAMILIES[family].model(config).eval()
    assert told.weights == sum(p.numel() * p.element_size() for p in model.parameters())
    with torch.inference_mode():
        cache = model(input_ids=torch.tensor([[9, 10, 11, 12]]), use_cache=True).past_key_values
    held = sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in cache.layers)
    assert told.cache == held // 4 * config.get_text_config().max_position_embeddings


@pytest.mark.parametrize(
    ("dtype", "stored", "expected"),
    [("float16", 0, "float16"), (None, 0, "float32"), (None, 1, "bfloat16"), (None, 9, "float32")],
)
def test_the_number_format_of_a_checkpoint(dtype: str | None, stored: int, expected: str) -> None:
    config = tf.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        dtype=dtype,
    )
    parameters = sum(measure("a model", config).parameters.values())
    assert measure("a model", config, stored * parameters).own_dtype == expected
    assert str(config.dtype).removeprefix("torch.") == str(dtype)  # measuring changes nothing


def test_what_is_stored_quantized_needs_what_it_is() -> None:
    config = tf.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        quantization_config={"quant_method": "awq"},
    )
    size = measure("a model", config, 12345)
    assert size.ready_made
    assert size.need("float16").weights == 12345


def size(weights_gib: float, own: str = "bfloat16", linear: float = 0.9) -> Size:
    """A model whose weights take so much in bfloat16, with a cache of 1/16 of that."""
    parameters = int(weights_gib * GIB / 2)
    return Size(
        linear=int(parameters * linear),
        others=parameters - int(parameters * linear),
        stored=0,
        ready_made=False,
        own_dtype=own,
        cache_values=parameters // 16384 // 16,
        work_values=0,
        head_values=0,
        context=16384,
    )


def machine(*free_gib: float, host: float = 64) -> tuple[Device, ...]:
    """A CPU, and GPUs with so much free memory."""
    gpus = [
        Device(f"cuda:{i}", f"GPU {i}", 2 * int(free * GIB), int(free * GIB), devices.DTYPES)
        for i, free in enumerate(free_gib)
    ]
    cpu = Device("cpu", "some CPU", int(128 * GIB), int(host * GIB), ("float32", "bfloat16"))
    return (cpu, *gpus)


PAIR = PairSize(size(16), size(2))  # 17 and 2.125 GiB in bfloat16 with their caches

PLACES: dict[str, tuple[dict[str, Any], tuple[str, str, str], str]] = {
    "no GPU": (
        {"found": machine()},
        ("cpu", "cpu", "float32"),
        "no GPU found: running on the CPU in float32: about 38.2 GiB of 64.0 GiB free",
    ),
    "float32 does not fit": (
        {"found": machine(host=24)},
        ("cpu", "cpu", "checkpoint"),
        "no GPU found: running on the CPU in bfloat16: about 19.1 GiB of 24.0 GiB free",
    ),
    "one GPU": (
        {"found": machine(24)},
        ("cuda:0", "cuda:0", "checkpoint"),
        "using the GPU: cuda:0 (GPU 0) in bfloat16: about 19.1 GiB of 24.0 GiB free",
    ),
    "the first GPU with room": (
        {"found": machine(8, 24, 80)},
        ("cuda:1", "cuda:1", "checkpoint"),
        "using the GPU: cuda:1 (GPU 1)",
    ),
    "a GPU for each": (
        {"found": machine(4, 19)},
        ("cuda:1", "cuda:0", "checkpoint"),
        "the draft on cuda:0: about 2.1 GiB of 4.0 GiB free",
    ),
    "the target over several": (
        {"found": machine(11, 11, 8)},
        ("cuda:0,cuda:1,cuda:2", "cuda:0", "checkpoint"),
        "spread over 3 GPUs, as one has no room, in bfloat16: about 19.1 GiB of 30.0 GiB free",
    ),
    "the target over several, the draft on the CPU": (
        {"found": machine(10, 11, host=8), "draft_device": "cpu"},
        ("cuda:0,cuda:1", "cpu", "checkpoint"),
        "spread over 2 GPUs",
    ),
    "a full GPU is passed over": (
        {"found": machine(12, 0.5, 12)},
        ("cuda:0,cuda:2", "cuda:0", "checkpoint"),
        "spread over 2 GPUs, as one has no room, in bfloat16: about 19.1 GiB of 24.0 GiB free",
    ),
    "a target alone": (
        {"found": machine(19, host=0.1), "pair": PairSize(size(16)), "draft_device": "cpu"},
        ("cuda:0", "cpu", "checkpoint"),
        "in bfloat16: about 17.0 GiB of 19.0 GiB free",
    ),
    "no room on the GPU": (
        {"found": machine(12)},
        ("cpu", "cpu", "float32"),
        "no GPU has room for the pair: running on the CPU in float32",
    ),
    "where it is asked": (
        {"found": machine(24, 80), "device": "cuda:1", "dtype": "float16"},
        ("cuda:1", "cuda:1", "float16"),
        "running on cuda:1 (GPU 1) as asked in float16",
    ),
    "cuda is the first": (
        {"found": machine(24, 80), "device": "cuda"},
        ("cuda:0", "cuda:0", "checkpoint"),
        "running on cuda:0 (GPU 0) as asked",
    ),
    "the draft elsewhere": (
        {"found": machine(24, 80), "draft_device": "cuda:1"},
        ("cuda:0", "cuda:1", "checkpoint"),
        "the draft on cuda:1",
    ),
    "the draft on the CPU": (
        {"found": machine(24), "draft_device": "cpu"},
        ("cuda:0", "cpu", "checkpoint"),
        "the draft on cpu: about 2.1 GiB of 64.0 GiB free",
    ),
    "quantized": (
        {"found": machine(12), "pair": PairSize(size(16), size(2), BY_NAME["4bit"])},
        ("cuda:0", "cuda:0", "checkpoint"),
        "in bfloat16, quantized to 4bit: about 8.8 GiB of 12.0 GiB free",
    ),
    "memory that is not told": (
        {"found": (Device("cpu", "some CPU", 0, 0, ("float32",)),)},
        ("cpu", "cpu", "float32"),
        "running on the CPU in float32: about 38.2 GiB",
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_places(name: str) -> None:
    given, expected, says = PLACES[name]
    placement = place(**({"pair": PAIR} | given))
    assert (placement.target, placement.draft, placement.dtype) == expected
    assert says in placement.note


def test_a_spread_target_leaves_room_for_caches_and_the_draft() -> None:
    found = machine(11, 11, 8)
    placement: Placement = place(PAIR, found)
    assert placement.budgets is not None
    target, draft = PAIR.needs("bfloat16")
    share = target.cache // 3
    for index, budget in placement.budgets.items():
        rest = share + (draft.total if index == 0 else 0) + 1 * GIB
        assert budget == found[index + 1].free - rest
    assert sum(placement.budgets.values()) > target.weights


@pytest.mark.parametrize("gpus", [(9, 9, 9), (12, 6, 8), (8, 8, 8, 8)], ids=str)
def test_the_budgets_of_a_spread_target_hold_all_of_its_layers(gpus: tuple[float, ...]) -> None:
    """accelerate, which spreads the layers, finds room for each without the CPU or the disk."""
    import torch
    from accelerate import infer_auto_device_map

    config = qwen2_5_vl_7b()
    pair = PairSize(measure("target", config), measure("draft", llava_onevision_half_b()))
    placement = place(pair, machine(*gpus, host=1))
    assert placement.budgets is not None
    with torch.device("meta"):
        model = auto_class(config).from_config(config, dtype=torch.bfloat16)
    spread = infer_auto_device_map(
        model, dict(placement.budgets), no_split_module_classes=list(model._no_split_modules)
    )
    assert set(spread.values()) <= set(placement.budgets)
    assert len(set(spread.values())) > 1


REFUSALS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "the draft has no place": (
        {"found": machine(10, 11, host=1), "draft_device": "cpu"},
        ("there is 10.0 GiB on cuda:0, 11.0 GiB on cuda:1 free",),
    ),
    "nowhere": (
        {"found": machine(8, host=8)},
        (
            "the pair needs about 19.1 GiB in bfloat16 (18.0 GiB of weights, 1.1 GiB of caches, ",
            "and there is 8.0 GiB on cuda:0 free: try a smaller model, or 19.1 GiB on one GPU",
        ),
    ),
    "fewer bits": (
        {"found": machine(12, host=8)},
        ("try --quantization 4bit (about 8.8 GiB)",),
    ),
    "half the width": (
        {"found": machine(24, host=8), "dtype": "float32"},
        ("needs about 38.2 GiB in float32", "try --dtype bfloat16 (about 19.1 GiB), or"),
    ),
    "no draft": (
        {"found": machine(19, host=8)},
        ("a smaller --draft, or --draft none (about 17.0 GiB)",),
    ),
    "where it is asked": (
        {"found": machine(12, 80), "device": "cuda:0"},
        ("there is 12.0 GiB on cuda:0 free: try --quantization",),
    ),
    "the host": (
        {"found": machine(host=16)},
        ("there is 16.0 GiB on cpu free: try --quantization int8 (about",),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_fits_nowhere_is_refused_with_what_would(name: str) -> None:
    given, says = REFUSALS[name]
    with pytest.raises(MemoryExhaustedError) as caught:
        place(**({"pair": PAIR} | given))
    for words in says:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pair_is_refused_before_its_weights_are_read(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sage_core
    from sage_core import pair_loading
    from tests.core.saved_pair import save_pair

    pair = save_pair(tmp_path)
    small = (Device("cpu", "a small computer", 2**28, 2**28 + 2**20, ("float32",)),)
    monkeypatch.setattr(pair_loading, "find_devices", lambda: small)
    monkeypatch.setattr(
        pair_loading, "load_weights", lambda *_, **__: pytest.fail("weights were read")
    )
    with pytest.raises(MemoryExhaustedError, match=r"the pair needs about \d+ MiB in float32"):
        sage_core.load(pair)


@pytest.mark.parametrize("device", ["cuda:2", "mps", "tpu"])
def test_a_device_that_is_not_there(device: str) -> None:
    for where in ("device", "draft_device"):
        with pytest.raises(OptionError, match=f"'{device}'"):
            place(PAIR, machine(24), **{where: device})


def test_what_auto_means() -> None:
    assert devices.choose(machine()).note == "no GPU found: running on the CPU in float32"
    choice = devices.choose(machine(24))
    assert (choice.device, choice.dtype) == ("cuda:0", "checkpoint")
    assert choice.note == "using the GPU: cuda:0 (GPU 0) in the checkpoint's own dtype"

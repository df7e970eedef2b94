"""Reading weights: once, in the right number format, in fewer bits, and no code unless trusted."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import sage_core
from benchmarks import loading as benchmark
from sage_core.errors import ModelError, OptionError
from sage_core.models import quantization
from sage_core.models.checkpoint import load_config, load_model
from sage_core.models.weights import load_weights
from tests.core.saved_pair import make_config, make_model, make_tokenizer, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in bfloat16."""
    model = make_model(make_config(2), 0).to(torch.bfloat16)
    return save(tmp_path_factory.mktemp("model"), model, make_tokenizer())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_host_never_holds_a_second_copy() -> None:
    """From bfloat16 to float32: what is loaded is held once, beside the pages of the file."""
    peak = benchmark.measure("bfloat16", "float32", layers=2)
    assert peak["weights"] > 1.9 * peak["file"]
    assert peak["own"] < 1.15 * peak["weights"]
    assert peak["resident"] < 1.15 * (peak["weights"] + peak["file"])


@pytest.mark.parametrize(
    ("asked", "given"), [("checkpoint", "bfloat16"), ("float32", "float32"), ("float16", "float16")]
)
def test_the_number_format(asked: str, given: str, folder: Path) -> None:
    model = load_model(folder, "cpu", asked)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, given)}
    assert not model.training


def test_auto_is_the_checkpoints_own_format_where_float32_has_no_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sage_core import pair_loading
    from sage_core.models.devices import Device

    # All but the weights takes the same in both, but for the caches.
    whole = sage_core.load(folder, device="cpu")
    assert whole.dtype == "float32"
    mib = int(whole.note.split("about ")[1].split(" MiB")[0])
    free = 2**28 + int(mib * 2**20 * 0.8)
    small = (Device("cpu", "a small computer", 2**30, free, ("float32", "bfloat16")),)
    monkeypatch.setattr(pair_loading, "find_devices", lambda: small)
    assert sage_core.load(folder, device="cpu").dtype == "bfloat16"


def test_several_gpus_are_left_to_accelerate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForImageTextToText

    given: dict[str, Any] = {}

    def remember(*_: object, **options: Any) -> None:
        given.update(options)
        raise MemoryError

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", remember)
    config = load_config(folder)
    for budgets in (None, {0: 10, 1: 20}):
        with pytest.raises(sage_core.MemoryExhaustedError, match="while loading it"):
            load_weights(
                folder, config, name="it", device="cuda:1", dtype="bfloat16", budgets=budgets
            )
        if budgets is None:
            assert given["device_map"] == {"": "cuda:1"}
            assert "max_memory" not in given
    assert given["device_map"] == "sequential"
    assert given["max_memory"] == {0: 10, 1: 20}
    assert given["use_safetensors"] is True
    assert given["trust_remote_code"] is False


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: object() if name in names else None)


@pytest.mark.parametrize("name", ["8bit", "4bit", "int8", "int4"])
def test_a_missing_package_is_named_with_its_extra(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch)
    package = {"8": "bitsandbytes", "4": "bitsandbytes"}.get(name[0], "torchao")
    with pytest.raises(OptionError) as caught:
        sage_core.load(folder, quantization=name)
    assert str(caught.value) == (
        f"quantization {name} needs {package}: pip install 'sage-vlm[{package}]'"
    )


def test_none_quantizes_nothing() -> None:
    assert quantization.find_method(None) is None
    assert quantization.find_method("none") is None


def test_the_extras_are_those_that_are_named() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    for method in quantization.METHODS:
        assert any(wanted.startswith(method.package) for wanted in extras[method.package])
    for package, extra in quantization._READY_MADE.values():
        assert any(wanted.startswith(package) for wanted in extras[extra])


def test_bitsandbytes_is_asked_for_as_it_wants() -> None:
    methods = {method.name: method for method in quantization.METHODS}
    eight = quantization.config_for(methods["8bit"], "bfloat16")
    assert (eight.load_in_8bit, eight.load_in_4bit) == (True, False)
    four = quantization.config_for(methods["4bit"], "float16")
    assert (four.load_in_4bit, four.bnb_4bit_quant_type) == (True, "nf4")
    assert four.bnb_4bit_compute_dtype == torch.float16


READY_MADE = [
    ({"quant_method": "awq", "bits": 4}, "awq", "gptqmodel", "gptq"),
    ({"quant_method": "gptq", "bits": 8}, "gptq", "gptqmodel", "gptq"),
    ({"load_in_4bit": True}, "bitsandbytes", "bitsandbytes", "bitsandbytes"),
]


@pytest.mark.parametrize(("stored", "method", "package", "extra"), READY_MADE)
def test_checkpoints_that_are_quantized_already(
    stored: dict[str, Any],
    method: str,
    package: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(tmp_path, make_model(make_config(1), 0), make_tokenizer())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": stored}))
    config = load_config(tmp_path)
    assert quantization.ready_made(config) == method
    installed(monkeypatch)
    with pytest.raises(ModelError, match=rf"with {method}, which needs {package}: .*\[{extra}\]"):
        sage_core.load(tmp_path, None)
    installed(monkeypatch, "torchao")
    with pytest.raises(OptionError, match="is quantized already"):
        sage_core.load(tmp_path, None, quantization="int8")


@pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")
def test_int8_on_the_cpu_decodes_what_generate_does(folder: Path) -> None:
    pipeline = sage_core.load(folder, folder, device="cpu", quantization="int8")
    assert "quantized to int8" in pipeline.note
    target, draft = pipeline._pair.target, pipeline._pair.draft
    layers = [model.get_decoder().layers[0].self_attn for model in (target, draft)]
    assert [type(layer.q_proj.weight).__name__ for layer in layers] == ["Int8Tensor", "Parameter"]
    ids = torch.tensor([[1, 40, 41, 42, 43]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = target.generate(**inputs, max_new_tokens=20, do_sample=False)
    decoder = sage_core.SpeculativeDecoder(target, draft, policy="static")
    assert decoder.generate(**inputs, max_new_tokens=20).sequences.tolist() == expected.tolist()


CONFIGURATION = """
from pathlib import Path
from transformers import LlamaConfig
Path({marker!r}).write_text("ran")
class MartianConfig(LlamaConfig):
    model_type = "martian"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_martian import MartianConfig
class MartianForCausalLM(LlamaForCausalLM):
    config_class = MartianConfig
"""


def test_code_of_a_checkpoint_runs_only_where_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    marker, folder = tmp_path / "marker", tmp_path / "model"
    size = {"vocab_size": 264, "hidden_size": 32, "intermediate_size": 64}
    config = LlamaConfig(**size, num_hidden_layers=1, num_attention_heads=4)
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "configuration_martian.py").write_text(CONFIGURATION.format(marker=str(marker)))
    (folder / "modeling_martian.py").write_text(MODELING)
    path = folder / "config.json"
    places = {
        "AutoConfig": "configuration_martian.MartianConfig",
        "AutoModelForCausalLM": "modeling_martian.MartianForCausalLM",
    }
    martian = {"model_type": "martian", "auto_map": places}
    path.write_text(json.dumps(json.loads(path.read_text()) | martian))
    with pytest.raises(ModelError, match=r"needs code of its own, .*use --trust-remote-code"):
        sage_core.load(folder, None)
    assert not marker.exists()
    pipeline = sage_core.load(folder, None, trust_remote_code=True)
    assert marker.exists()
    assert type(pipeline._pair.target).__name__ == "MartianForCausalLM"

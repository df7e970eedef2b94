"""Loading: what is found, what is refused before weights are read, and in how many words."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sage_core
from sage_core import pair_loading
from sage_core.errors import MemoryExhaustedError, ModelError, OptionError
from sage_core.models import catalog, devices
from sage_core.models.quiet import memory_errors
from tests.core.saved_pair import make_config, make_model, make_tokenizer, save, save_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def copy(pair: Path, tmp_path: Path) -> Path:
    """A pair that a test may break."""
    return Path(shutil.copytree(pair, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(catalog.BUNDLED_VARIABLE, raising=False)


def test_a_folder_with_both_models_is_a_pair(pair: Path) -> None:
    heard: list[tuple[str, float]] = []
    pipeline = sage_core.load(pair, device="cpu", progress=lambda *said: heard.append(said))
    assert pipeline.target_id == str(pair)
    assert pipeline.draft_id == f"{pair}/draft"
    assert (pipeline.device, pipeline.dtype) == ("cpu", "float32")
    assert re.fullmatch(
        r"running on the CPU as asked in float32: about \d+ MiB of [\d.]+ GiB free", pipeline.note
    )
    fractions = [fraction for _, fraction in heard]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    loaded = pipeline._pair
    assert not loaded.target.training
    assert loaded.target.config._attn_implementation == "sdpa"


def test_loading_says_nothing(pair: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sage_core.load(pair)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("same", [True, False])
def test_equal_vision_towers_are_shared(tmp_path: Path, same: bool) -> None:
    loaded = sage_core.load(save_pair(tmp_path, same_tower=same))._pair
    shared = loaded.draft.model.vision_tower is loaded.target.model.vision_tower
    assert shared is same


@pytest.mark.parametrize("draft", [None, "none"])
def test_without_a_draft(pair: Path, draft: str | None) -> None:
    pipeline = sage_core.load(pair, draft)
    assert pipeline.draft_id is None
    assert pipeline._pair.draft is None


def test_a_single_checkpoint_has_no_known_draft(pair: Path) -> None:
    pipeline = sage_core.load(pair / "target")
    assert pipeline.draft_id is None
    assert pipeline.note.endswith(
        f"; no draft is known for {pair / 'target'}: decoding without one "
        "(--draft ngram may speed it up)"
    )
    assert sage_core.load(pair / "target", pair / "draft").draft_id == str(pair / "draft")


def test_dtype_is_honoured(pair: Path) -> None:
    pipeline = sage_core.load(pair, device="cpu", dtype="bfloat16")
    assert pipeline.dtype == "bfloat16"
    assert pipeline._pair.target.dtype == torch.bfloat16


def test_the_bundled_pair_can_stand_elsewhere(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(catalog.BUNDLED_VARIABLE, str(pair))
    assert catalog.bundled_folder() == pair
    for name in (None, "sage-tiny"):
        pipeline = sage_core.load(name)
        assert (pipeline.target_id, pipeline.draft_id) == ("sage-tiny", "sage-tiny-draft")
    entry = catalog.list_models()[0]
    assert (entry.id, entry.kind, entry.draft) == ("sage-tiny", "bundled", "bundled")
    assert entry.architecture == "LlavaOnevisionForConditionalGeneration"
    assert entry.bytes == (pair / "target" / "model.safetensors").stat().st_size
    monkeypatch.setenv(catalog.BUNDLED_VARIABLE, str(pair / "target"))
    with pytest.raises(ModelError, match=r"SAGE_BUNDLED_PAIR=.* has no target/config\.json"):
        sage_core.load()


def drop(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def write(name: str, data: str | bytes) -> Callable[[Path], None]:
    raw = data.encode() if isinstance(data, str) else data
    return lambda folder: (folder / name).write_bytes(raw) and None


def edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def pickled_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def garbage_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(os.urandom(path.stat().st_size))


def one_weight_missing(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    weights.pop(next(name for name in weights if "layers.1.mlp.up_proj" in name))
    save_file(weights, path, metadata={"format": "pt"})


def other_size(folder: Path) -> None:
    make_model(make_config(1, 300), 0).save_pretrained(folder / "x")
    (folder / "x" / "model.safetensors").replace(folder / "model.safetensors")


BROKEN_TARGETS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (drop("config.json"), "not a model: it has no config.json"),
    "config is no JSON": (write("config.json", "{"), "config.json: not valid JSON"),
    "config of something else": (write("config.json", "{}"), "names no model_type"),
    "unknown architecture": (edit_config(model_type="martian"), "of type martian"),
    "not generative": (
        write("config.json", '{"model_type": "siglip_vision_model"}'),
        "not a text-generating model",
    ),
    "no weights": (drop("model.safetensors"), "model.safetensors is missing"),
    "pickled only": (pickled_only, "only pickled weights"),
    "truncated weights": (truncate, "weights are damaged"),
    "garbage weights": (garbage_weights, "weights are damaged"),
    "a weight missing": (one_weight_missing, "weights lack"),
    "weights of another size": (other_size, "weights are damaged"),
    "no tokenizer": (drop("tokenizer.json"), "tokenizer cannot be loaded"),
    "damaged tokenizer": (write("tokenizer.json", "{"), "tokenizer cannot be loaded"),
    "no image processor": (drop("preprocessor_config.json"), "image processor cannot be loaded"),
}


@pytest.mark.parametrize("name", BROKEN_TARGETS)
def test_a_broken_target_is_one_clear_line(
    name: str, copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, says = BROKEN_TARGETS[name]
    damage(copy / "target")
    capfd.readouterr()
    with pytest.raises(ModelError) as caught:
        sage_core.load(copy / "target", copy / "draft")
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_tokenizers_are_compared_before_any_weights(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copy / "draft")
    save(copy / "draft", make_model(make_config(1), 1), make_tokenizer(extra=("zebra",)))

    def fail(*_: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(pair_loading, "load_weights", fail)
    with pytest.raises(ModelError, match="token 261 is nothing for the target and 'zebra' for the"):
        sage_core.load(copy)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no/such/folder/anywhere", "no such folder"),
        ("./missing", "no such folder"),
        ("justaname", "no such folder, and not a hub id either"),
        (Path("owner/name"), "no such folder"),
    ],
    ids=str,
)
def test_names_that_lead_nowhere(name: str | Path, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        sage_core.load(name)


def test_a_file_is_no_model(pair: Path) -> None:
    with pytest.raises(ModelError, match="is a file"):
        sage_core.load(pair / "target" / "config.json")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "toaster"}, "unknown device 'toaster'"),
        ({"device": "meta"}, "unknown device 'meta'"),
        ({"device": "cuda:99"}, "not available"),
        ({"draft_device": "cuda:99"}, "not available"),
        ({"dtype": "int3"}, "unknown dtype 'int3'"),
        ({"quantization": "2bit"}, "unknown quantization '2bit': choose from none, 8bit, 4bit"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_first(options: dict[str, str], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        sage_core.load("no/such/model/anywhere", **options)


def test_the_report_names_what_is_here() -> None:
    report = devices.report()
    assert report.versions["torch"] == torch.__version__.split("+")[0] or report.versions["torch"]
    assert report.devices[0].name == "cpu"
    assert report.chosen == devices.choose(report.devices)
    assert report.versions["accelerate"]
    assert {"bitsandbytes", "torchao", "gptqmodel"} <= set(report.versions)
    assert 0 < report.devices[0].free <= report.devices[0].memory
    assert "decord" in report.video or "PyAV" in report.video


@pytest.mark.parametrize(
    ("error", "caught"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("shapes do not match"), False),
    ],
    ids=str,
)
def test_running_out_of_memory_is_said_with_advice(error: Exception, caught: bool) -> None:
    wanted = MemoryExhaustedError if caught else RuntimeError
    with pytest.raises(wanted) as raised, memory_errors("while testing", "buy more"):
        raise error
    if caught:
        assert str(raised.value).endswith("memory while testing: buy more")
        assert raised.value.__cause__ is error


def test_loading_too_much_is_a_memory_error(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForImageTextToText

    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", exhausted)
    with pytest.raises(MemoryExhaustedError, match=r"while loading .*: choose a smaller model"):
        sage_core.load(pair)

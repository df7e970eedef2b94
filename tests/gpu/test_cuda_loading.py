"""Pairs on real GPUs: where they go, what they hold, and that the text stays the target's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sage_core
from sage_core.models import checkpoint as loading
from sage_core.models.devices import find_devices
from sage_core.models.placement import Placement
from tests.core.saved_families import save_pair

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")

GPUS = torch.cuda.device_count()
IDS = torch.tensor([[1, 40, 41, 42, 43]])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(tmp_path_factory.mktemp("pair"), "qwen2_5_vl")


def check_exact(pipeline: sage_core.Pipeline) -> None:
    target, draft = pipeline._pair.target, pipeline._pair.draft
    device = target.get_input_embeddings().weight.device
    inputs = {"input_ids": IDS.to(device), "attention_mask": torch.ones_like(IDS).to(device)}
    expected = target.generate(**inputs, max_new_tokens=24, do_sample=False)
    decoder = sage_core.SpeculativeDecoder(target, draft, policy="static")
    output = decoder.generate(**inputs, max_new_tokens=24)
    assert output.sequences.tolist() == expected.tolist()


def test_auto_is_the_first_gpu(pair: Path) -> None:
    pipeline = sage_core.load(pair, dtype="float32")
    assert pipeline.device == "cuda:0"
    assert pipeline.note.startswith("using the GPU: cuda:0 (")
    assert all(p.device.type == "cuda" for p in pipeline._pair.draft.parameters())
    check_exact(pipeline)


def test_the_free_memory_of_a_gpu_is_known() -> None:
    gpu = find_devices()[1]
    assert 0 < gpu.free <= gpu.memory
    assert gpu.description == torch.cuda.get_device_name(0)


def test_the_draft_on_the_cpu(pair: Path) -> None:
    pipeline = sage_core.load(pair, draft_device="cpu", dtype="float32")
    assert {p.device.type for p in pipeline._pair.draft.parameters()} == {"cpu"}
    check_exact(pipeline)


@pytest.mark.skipif(GPUS < 2, reason="one GPU only")
def test_the_draft_on_another_gpu(pair: Path) -> None:
    pipeline = sage_core.load(pair, draft_device="cuda:1", dtype="float32")
    assert {str(p.device) for p in pipeline._pair.draft.parameters()} == {"cuda:1"}
    check_exact(pipeline)


@pytest.mark.skipif(GPUS < 2, reason="one GPU only")
def test_a_target_spread_over_gpus(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = (pair / "target" / "model.safetensors").stat().st_size * 6 // 10
    budgets = dict.fromkeys(range(2), half)
    spread = Placement("cuda:0,cuda:1", "cuda:0", "float32", "spread for a test", budgets)
    monkeypatch.setattr(loading, "place", lambda *_: spread)
    pipeline = sage_core.load(pair)
    assert len({p.device for p in pipeline._pair.target.parameters()}) == 2
    check_exact(pipeline)

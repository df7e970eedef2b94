"""Exactness on a GPU: float32 without TF32, and bfloat16 up to near-ties, which are reported."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
import torch

from sage_core.bench.records import Mismatch
from sage_core.drafts.head.checkpoint import placed
from sage_core.engine.decoder import SpeculativeDecoder
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.heads import LATEST, head_for
from tests.tiny.oracle import check_steps, first_mismatch, reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

POLICIES = ("autoregressive", "chain", "static", "sage")
NEW = 64


@pytest.fixture(autouse=True)
def plain_float32() -> Iterator[None]:
    """Products in full float32, as on the CPU."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def on_gpu(family: str, kind: str, dtype: torch.dtype) -> tuple[Any, Any, dict[str, Any]]:
    """A pair and inputs for it on the device; the shared CPU models stay where they are."""
    target, draft = build_pair(family)
    inputs = make_inputs(target, family, kind)
    moved = {
        name: value.to("cuda", dtype) if value.is_floating_point() else value.to("cuda")
        for name, value in inputs.items()
    }
    models = [copy.deepcopy(model).to("cuda", dtype) for model in (target, draft)]
    return models[0], models[1], moved


def differences(family: str, dtype: torch.dtype, **options: Any) -> list[Mismatch]:
    """First differences from `generate` of all policies on all kinds of input of a family."""
    found = []
    for kind in FAMILIES[family].kinds:
        target, draft, inputs = on_gpu(family, kind, dtype)
        expected = reference(target, inputs, max_new_tokens=NEW, **options)
        for policy in POLICIES:
            decoder = SpeculativeDecoder(target, draft, policy)
            output = decoder.generate(**inputs, max_new_tokens=NEW, **options)
            prompt = inputs["input_ids"].shape[1]
            check_steps(output.steps, output.sequences[0, prompt:].tolist())
            mismatch = first_mismatch(
                target, inputs, expected, output.sequences, max_new_tokens=NEW, **options
            )
            if mismatch is not None:
                found.append(mismatch)
    return found


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.2}], ids=["plain", "penalty"])
@pytest.mark.parametrize("family", FAMILIES)
def test_float32_is_the_target_s_own_output(family: str, options: dict[str, Any]) -> None:
    assert differences(family, torch.float32, **options) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_differs_at_near_ties_only(family: str, record_property: Any) -> None:
    found = differences(family, torch.bfloat16)
    record_property("near_ties", [asdict(mismatch) for mismatch in found])
    for mismatch in found:
        print(f"{family}: {mismatch}")
    assert all(mismatch.near_tie for mismatch in found)


@pytest.mark.parametrize("kind", ["head", "concat", "vispec"])
@pytest.mark.parametrize("family", LATEST)
def test_heads(family: str, kind: str) -> None:
    """A head goes where its target is, and drafts there."""
    target, _, inputs = on_gpu(family, FAMILIES[family].kinds[-1], torch.float32)
    head = placed(copy.deepcopy(head_for(family, kind)), target)
    expected = reference(target, inputs, max_new_tokens=NEW)
    output = SpeculativeDecoder(target, head, "static").generate(**inputs, max_new_tokens=NEW)
    assert first_mismatch(target, inputs, expected, output.sequences, max_new_tokens=NEW) is None
    assert output.stats.draft_passes > 0


def test_peak_memory_is_the_device_s() -> None:
    target, draft, inputs = on_gpu("qwen2_5_vl", "image", torch.float32)
    output = SpeculativeDecoder(target, draft).generate(**inputs, max_new_tokens=8)
    assert 0 < output.stats.peak_memory <= torch.cuda.max_memory_allocated()

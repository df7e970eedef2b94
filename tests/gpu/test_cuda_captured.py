"""CUDA graphs and the compiled tree kernel: the target's own output, and what was captured."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.generation.prepare import prepare
from sage_core.runtime.cuda.executor import CudaGraphBackend
from sage_core.runtime.runner import Runner
from tests.core.test_cuda_graphs import a_tree
from tests.gpu.test_cuda_exactness import on_gpu
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.oracle import check_steps, first_mismatch, reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SPARSE = "qwen3_vl_moe"
"""Its experts may be chosen in a way that no graph can hold: it must then say so."""
NEW = 48


@pytest.fixture(autouse=True)
def plain_float32() -> Iterator[None]:
    """Products in full float32, as on the CPU."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "pytorch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_replayed_passes_are_eager_passes(family: str, kernel: bool) -> None:
    model = copy.deepcopy(build_pair(family).target).to("cuda")
    inputs = {k: v.to("cuda") for k, v in make_inputs(model, family, "text").items()}
    made = CudaGraphBackend(kernel=kernel)
    runners: list[Runner] = [Runner(model, made.executor(model)), Runner(model)]
    for runner in runners:
        runner.prefill(prepare(model, {**inputs, "max_new_tokens": 8}), room=70)
    for seed, nodes in enumerate((0, 2, 3, 12, 6, 64, 0, 31, 3)):
        tree = a_tree(nodes, seed)
        (got, _), (expected, _) = (
            runner.forward((9, *tree.tokens), (0, *tree.depths), tree.visibility)
            for runner in runners
        )
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-4)
        for runner in runners:
            runner.commit([0])
    if family != SPARSE:
        attention = "kernel" if kernel else "pytorch"
        assert {(r.captured, r.attention) for r in made.records} == {(True, attention)}
        assert made.notes == ()


def texts(family: str, dtype: torch.dtype) -> Iterator[Any]:
    """The first difference from `generate`, or None, of some policies on all kinds of input."""
    made = CudaGraphBackend()
    for kind in FAMILIES[family].kinds:
        target, draft, inputs = on_gpu(family, kind, dtype)
        expected = reference(target, inputs, max_new_tokens=NEW)
        for policy in ("autoregressive", "static", "sage"):
            decoder = SpeculativeDecoder(target, draft, policy, backend=made)
            output = decoder.generate(**inputs, max_new_tokens=NEW)
            prompt = inputs["input_ids"].shape[1]
            check_steps(output.steps, output.sequences[0, prompt:].tolist())
            yield first_mismatch(target, inputs, expected, output.sequences, max_new_tokens=NEW)


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_is_the_target_s_own_output(family: str) -> None:
    assert [mismatch for mismatch in texts(family, torch.float32) if mismatch] == []


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
def test_bfloat16_differs_at_near_ties_only(family: str) -> None:
    found = [mismatch for mismatch in texts(family, torch.bfloat16) if mismatch]
    print(found)
    assert all(mismatch.near_tie for mismatch in found)

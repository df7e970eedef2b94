"""Packed weights: equal products, and a model that is unchanged between passes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.generation.prepare import prepare
from sage_core.runtime.backend import EagerBackend
from sage_core.runtime.cpu.executor import CpuBackend
from sage_core.runtime.cpu.packed_weights import PackedWeights
from sage_core.runtime.cpu.weight_layouts import (
    LAYOUTS,
    Forward,
    Layout,
    by_columns,
    by_onednn,
    fastest,
)
from sage_core.runtime.runner import Runner
from tests.tiny.pairs import build_pair


def always(_: object) -> Layout:
    """Copies are wanted, however long they take."""
    return by_onednn


CHAIN = np.tril(np.ones((6, 6), dtype=bool))


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    built = build_pair("qwen2")
    return built.target, built.draft


def inputs() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])}


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 80),
    st.integers(1, 80),
    st.booleans(),
    st.integers(0, 9),
    st.sampled_from(LAYOUTS),
)
def test_a_packed_layer_equals_the_layer(
    rows: int, features: int, outputs: int, bias: bool, seed: int, layout: Layout
) -> None:
    torch.manual_seed(seed)
    layer, x = nn.Linear(features, outputs, bias=bias), torch.randn(1, rows, features)
    packs = PackedWeights(1 << 20, lambda _: layout)
    assert packs.refresh([layer]) == 1
    with torch.inference_mode():
        plain = layer(x)
        with packs.in_use():
            packed = layer(x)
    torch.testing.assert_close(packed, plain, rtol=1e-4, atol=1e-5)


def test_passes_equal_eager_ones(pair: tuple[Any, Any]) -> None:
    target, _ = pair
    results = []
    for backend in (EagerBackend(), CpuBackend(choose=always)):
        runner = Runner(target, backend.executor(target))
        runner.prefill(prepare(target, {**inputs(), "max_new_tokens": 4}), 16)
        results.append(runner.forward([3, 4, 5, 6, 7, 8], range(6), CHAIN))
    assert runner.executor.name == "packed weights, traced"
    for plain, packed in zip(*results, strict=True):
        torch.testing.assert_close(packed, plain, rtol=1e-4, atol=1e-5)


def test_the_model_is_unchanged_between_passes(pair: tuple[Any, Any]) -> None:
    target, draft = pair
    before = {name: set(vars(module)) for name, module in target.named_modules()}
    SpeculativeDecoder(target, draft, "static").generate(**inputs(), max_new_tokens=12)
    assert {name: set(vars(module)) for name, module in target.named_modules()} == before


def test_a_pass_that_fails_leaves_no_trace() -> None:
    layer, packs = nn.Linear(4, 4), PackedWeights(1 << 20, always)
    packs.refresh([layer])
    with pytest.raises(KeyError), packs.in_use():
        assert "forward" in vars(layer)
        raise KeyError
    assert "forward" not in vars(layer)


def test_weights_that_change_are_packed_again() -> None:
    layer, packs, x = nn.Linear(8, 8), PackedWeights(1 << 20, always), torch.randn(1, 4, 8)
    packs.refresh([layer])
    with torch.no_grad():
        layer.weight.mul_(3)
    packs.refresh([layer])
    with torch.inference_mode(), packs.in_use():
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


class Quantized(nn.Linear):
    """Stands for layers of libraries that shrink weights."""


@pytest.mark.parametrize(
    ("module", "limit"),
    [
        (nn.Linear(8, 8), 8 * 8 * 4 - 1),
        (nn.Linear(8, 8).bfloat16(), 1 << 20),
        (Quantized(8, 8), 1 << 20),
        (nn.LayerNorm(8), 1 << 20),
    ],
    ids=["over the limit", "another dtype", "another kind of layer", "no linear layer"],
)
def test_layers_that_are_not_packed(module: nn.Module, limit: int) -> None:
    assert PackedWeights(limit, always).refresh([module]) == 0


TIMES = [
    ((3, 1, 2), 0),
    ((3, 2, 1), 1),
    ((2, 2, 2), None),
    ((2, 1.9, 3), None),
    ((2, 3, 1.7), 1),
]
"""Seconds of the plain product and of two layouts, and the layout that is chosen."""


@pytest.mark.parametrize(("times", "wanted"), TIMES)
def test_the_fastest_layout_is_taken_if_it_saves_a_tenth(
    times: tuple[float, ...], wanted: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def lasts(weight: torch.Tensor, seconds: float, x: torch.Tensor) -> torch.Tensor:
        clock[0] += seconds * x.shape[1]
        return x

    def layout(seconds: float) -> Layout:
        return lambda layer: partial(lasts, layer.weight, seconds)

    plain, *copied = times
    layouts = [layout(seconds) for seconds in copied]
    monkeypatch.setattr("sage_core.runtime.cpu.weight_layouts.perf_counter", lambda: clock[0])
    monkeypatch.setattr(
        "sage_core.runtime.cpu.weight_layouts._linear", lambda weight, _, x: lasts(weight, plain, x)
    )
    monkeypatch.setattr("sage_core.runtime.cpu.weight_layouts.LAYOUTS", (unknown, *layouts))
    # A shape that no other case has, since each is timed once.
    size = 101 + TIMES.index((times, wanted))
    found = fastest(nn.Linear(size, 8))
    assert found is fastest(nn.Linear(size, 8))
    assert found is (None if wanted is None else layouts[wanted])


def unknown(_: nn.Linear) -> Forward:
    raise RuntimeError("not on this processor")


def test_timing_draws_no_random_numbers() -> None:
    layer, before = nn.Linear(107, 8), torch.get_rng_state()
    fastest(layer)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_shape_is_timed_separately() -> None:
    layers = [nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 16, bias=False)]
    packs = PackedWeights(1 << 20, lambda layer: by_columns if layer.out_features == 16 else None)
    assert packs.refresh(layers) == 2
    with packs.in_use():
        assert ["forward" in vars(layer) for layer in layers] == [False, True, False, True]


def test_a_model_over_the_limit_is_not_packed(pair: tuple[Any, Any]) -> None:
    target, draft = pair
    assert CpuBackend(100, always).executor(target).name == "traced"
    wanted = target.generate(**inputs(), max_new_tokens=12, do_sample=False)
    for backend in (EagerBackend(), CpuBackend(100), CpuBackend(choose=always)):
        decoder = SpeculativeDecoder(target, draft, "static", backend=backend)
        output = decoder.generate(**inputs(), max_new_tokens=12, do_sample=False)
        assert torch.equal(output.sequences, wanted)

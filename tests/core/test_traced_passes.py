"""Traced passes: equal to eager passes to the last bit, or eager where that is not certain."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sage_core.drafts.head.module import HeadPrompt
from sage_core.drafts.head.runner import HeadRunner
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.generation.prepare import prepare
from sage_core.runtime.cpu.executor import CpuBackend, CpuExecutor
from sage_core.runtime.cpu.traced_pass import TracedPasses
from sage_core.runtime.cpu.weight_layouts import Layout, by_columns, by_onednn
from sage_core.runtime.kv_cache import TreeCache
from sage_core.runtime.runner import Runner
from sage_core.runtime.tree_runner import PassRequest, TreeRunner
from tests.tiny.families import FAMILIES
from tests.tiny.heads import head_for
from tests.tiny.inputs import make_inputs
from tests.tiny.pairs import build_pair

EXPERTS = [name for name in FAMILIES if "moe" in name]
PLAIN = [name for name in FAMILIES if name not in EXPERTS]


def passes(seed: int, count: int) -> Iterator[tuple[list[int], list[int], np.ndarray, list[int]]]:
    """Random trees as passes, with the path that is committed of each."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        n = int(rng.integers(1, 9)) if number % 3 else 1
        parents = [-1] + [int(rng.integers(0, i)) for i in range(1, n)]
        visible = np.eye(n, dtype=bool)
        depths = [0] * n
        for i in range(1, n):
            visible[i] |= visible[parents[i]]
            depths[i] = depths[parents[i]] + 1
        path = [i for i in range(n) if visible[n - 1, i]][: int(rng.integers(1, 4))]
        yield rng.integers(20, 60, n).tolist(), depths, visible, path


@cache
def target_in(family: str, dtype: torch.dtype) -> Any:
    target = build_pair(family).target
    return target if dtype == target.dtype else copy.deepcopy(target).to(dtype)


def both(family: str, backend: CpuBackend, dtype: torch.dtype = torch.float32) -> list[Runner]:
    """Traced passes, and the reference: packed weights and the model's own modules."""
    target = target_in(family, dtype)
    executor = backend.executor(target)
    runners = [Runner(target, executor), Runner(target, executor.observable())]
    for one in runners:
        kind = "image" if "image" in FAMILIES[family].kinds else "text"
        inputs = make_inputs(target, family, kind, length=7)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        one.prefill(prepare(target, {**inputs, "max_new_tokens": 4}), 8)
    return runners


def traced_by(runner: TreeRunner) -> TracedPasses:
    assert isinstance(runner.executor, CpuExecutor) and runner.executor.traced is not None
    return runner.executor.traced


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        (by_onednn, torch.float32),
        (by_columns, torch.float32),
        (None, torch.float32),
        (None, torch.bfloat16),
    ],
    ids=["onednn", "columns", "float32", "bfloat16"],
)
def test_traced_passes_equal_eager_ones(
    family: str, layout: Layout | None, dtype: torch.dtype
) -> None:
    make = CpuBackend(choose=lambda _: layout)
    for seed in range(2):  # traces of one text are used in the next
        traced, eager = both(family, make, dtype)
        for tokens, depths, visible, path in passes(seed, 14):
            found = traced.forward(tokens, depths, visible)
            wanted = eager.forward(tokens, depths, visible)
            for ours, theirs in zip(found, wanted, strict=True):
                assert torch.equal(ours, theirs)
            traced.commit(path)
            eager.commit(path)
    state = traced_by(traced)
    assert {one for one, *_ in state._replays} == {True, False}, state.why_not


@pytest.mark.parametrize("family", EXPERTS)
def test_passes_that_depend_on_values_in_a_tensor_are_not_traced(family: str) -> None:
    traced, eager = both(family, CpuBackend())
    for tokens, depths, visible, path in passes(0, 12):
        found, wanted = (one.forward(tokens, depths, visible) for one in (traced, eager))
        assert torch.equal(found[0], wanted[0])
        traced.commit(path)
        eager.commit(path)
    state = traced_by(traced)
    assert not state._replays and "may depend on values in a tensor" in state.why_not


@pytest.mark.parametrize("kind", ["head", "vispec"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "qwen3_vl"])
def test_traced_passes_of_a_head_equal_eager_ones(family: str, kind: str) -> None:
    make, target, head = CpuBackend(), build_pair(family).target, head_for(family, kind)
    size = head.config.hidden_size
    for seed in range(2):
        torch.manual_seed(seed)
        feature = torch.randn(1, 1, size) if kind == "vispec" else None  # another in each text
        rows = torch.randn(1, 7, size)
        prompt = HeadPrompt(rows, torch.arange(7)[None], feature, torch.arange(7), 0)
        traced, eager = (HeadRunner(head, target, make) for _ in range(2))
        eager.observe_layers()
        for runner in (traced, eager):
            runner.prefill(prompt, 7, 8)
        for tokens, depths, visible, path in passes(seed, 14):
            features = torch.randn(len(tokens), size)
            found, wanted = (
                PassRequest(one, tokens, depths, visible, features=features).run()
                for one in (traced, eager)
            )
            for ours, theirs in zip(found, wanted, strict=True):
                assert torch.equal(ours, theirs)
            traced.commit(path[:1])
            eager.commit(path[:1])
    assert len(traced_by(traced)._replays) == 2


def test_inactive_hooks_of_transformers_do_not_disable_tracing() -> None:
    target = build_pair("llava_onevision", seed=3).target
    inputs = make_inputs(target, "llava_onevision", "image", length=7)
    with torch.inference_mode():
        target(**inputs, output_hidden_states=True)
    assert any(module._forward_hooks for module in target.get_decoder().modules())
    decoder = SpeculativeDecoder(target, None, "autoregressive", backend=(make := CpuBackend()))
    decoder.generate(**inputs, max_new_tokens=8)
    traced = traced_by(Runner(target, make.executor(target)))
    assert traced._replays and not traced.why_not


class Small(nn.Module):
    """A decoder of one layer; with one more ``operation``."""

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.config = build_pair("qwen2").target.config
        self.linear = nn.Linear(4, 4)
        self.own = nn.Buffer(torch.randn(4))
        self.operation = operation
        self.eval()

    def forward(self, x: Tensor, cache: TreeCache, foreign: Tensor, **_more: Any) -> Tensor:
        keys, _ = cache.update(x[:, None], x[:, None], 0)
        x = F.silu(self.linear(x)) + self.own
        match self.operation:
            case "item":
                x = x * x.sum().item()
            case "branch":
                x = x + 1 if x.mean() > 0 else x
            case "index":
                x = x[:, x[0, :, 0].argsort()]
            case "foreign":
                x = x + foreign
            case "length":
                x = x * keys.shape[2]
            case "in place":
                x = F.relu(x, inplace=True)
            case "fresh":
                x = x + torch.ones(4)
            case "assignment":
                x = x.clone()
                x[x > 0] = 0
            case "slices":
                before, y = x * 2, x.clone()
                first = y * 2
                y[:, :1, ::2] = before[:, :1, ::2]
                x = before + first + y * 2
                y[:, :1, ::2] = before[:, :1, ::2] * 3
                x = x + y * 2
                one, other = y.clone(), y.clone()
                one[:, :, 1:2] = before[:, :, 1:2]
                x = x + one * 3 + other
            case "calls":
                for _ in range(keys.shape[2] % 3):
                    x = x * 2
            case "random":
                x = F.dropout(x, 0.5, training=True)
        return x


def run(module: Small, traced: TracedPasses, lengths: list[int]) -> None:
    """Passes of those lengths one after another, each compared with the module's own."""
    traced.refresh(module)
    cache, other = TreeCache(1, 64), TreeCache(1, 64)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for n in lengths:
            x, foreign = torch.randn(2, 1, n, 4, generator=generator)

            def eager(x: Tensor, foreign: Tensor = foreign, **more: Any) -> Tensor:
                return module(x, cache, foreign, **more)

            torch.manual_seed(n)
            found = traced.run(n, {"x": x}, cache, eager)
            torch.manual_seed(n)
            assert torch.equal(found, module(x, other, foreign))
            assert cache.length == other.length


LENGTHS = [3, 3, 5, 2, 1, 1, 1, 6, 4, 1]
REFUSED = {
    "item": "item may depend",
    "branch": "may depend",
    "index": "may depend",
    "foreign": "not the model's",
    "length": "depends on the length",
    "in place": "may depend",
    "fresh": "may depend",
    "assignment": "may depend",
    "calls": "call other functions",
    "random": "dropout may depend",
}


@pytest.mark.parametrize("operation", REFUSED)
def test_untraceable_passes_run_eagerly(operation: str) -> None:
    module = Small(operation)
    traced = TracedPasses(module.config)
    run(module, traced, LENGTHS)
    assert REFUSED[operation] in traced.why_not
    assert not traced._replays
    run(module, traced, LENGTHS)  # tracing is not tried again
    assert not traced._traces


def test_calls_before_an_assignment_are_not_shared() -> None:
    module = Small("slices")
    traced = TracedPasses(module.config)
    run(module, traced, LENGTHS)
    assert len(traced._replays) == 2, traced.why_not


def test_a_pass_is_traced_twice_and_then_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Small("")
    traced = TracedPasses(module.config)
    run(module, traced, LENGTHS)
    assert len(traced._replays) == 2 and not traced.why_not
    calls = []
    monkeypatch.setattr(Small, "forward", lambda *_args, **_more: calls.append(1))
    with torch.inference_mode():
        cache = TreeCache(1, 8)
        for n in (1, 7):
            out = traced.run(n, {"x": torch.randn(1, n, 4)}, cache, module)
            assert out.shape == (1, n, 4)
    assert not calls


def test_a_changed_model_is_traced_again() -> None:
    module = Small("")
    traced = TracedPasses(module.config)
    run(module, traced, LENGTHS)
    with torch.no_grad():
        module.linear.weight.mul_(2)  # in place: the replay uses the same tensor
    run(module, traced, LENGTHS)
    module.linear.weight = nn.Parameter(torch.randn(4, 4))
    run(module, traced, LENGTHS)
    assert len(traced._replays) == 2


DISABLES = {
    "a hook": lambda m: m.linear.register_forward_hook(lambda *_: None),
    "a hook before": lambda m: m.linear.register_forward_pre_hook(lambda *_: None),
    "training": lambda m: m.train(),
    "its own forward": lambda m: m.linear.__dict__.update(forward=m.linear.forward),
}


@pytest.mark.parametrize("how", DISABLES)
def test_modules_with_hooks_or_other_forwards_run(how: str) -> None:
    module = Small("")
    traced = TracedPasses(module.config)
    DISABLES[how](module)
    run(module, traced, LENGTHS)
    assert traced.why_not and not traced._replays


def test_autocast_passes_run_eagerly() -> None:
    module = Small("")
    traced = TracedPasses(module.config)
    run(module, traced, LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        run(module, traced, LENGTHS)


def test_a_pass_that_fails_leaves_the_model_and_the_cache_as_they_were() -> None:
    pair = build_pair("qwen2")
    runner = Runner(pair.target, CpuBackend().executor(pair.target))
    runner.prefill(
        prepare(pair.target, {"input_ids": torch.tensor([[5, 6]]), "max_new_tokens": 4}), 8
    )
    before = pair.target.config._attn_implementation
    with pytest.raises(IndexError):
        runner.forward([10**6], [0], np.eye(1, dtype=bool))
    assert pair.target.config._attn_implementation == before == "sdpa"
    assert "update" not in runner.cache.__dict__
    runner.commit(())
    runner.forward([7], [0], np.eye(1, dtype=bool))


def test_traces_do_not_keep_a_model_alive() -> None:
    make = CpuBackend()
    target = build_pair("llava").target
    head = head_for.__wrapped__("llava", "head")
    decoder = SpeculativeDecoder(target, head, "chain", backend=make)
    inputs = make_inputs(target, "llava", "image", length=7)
    decoder.generate(**inputs, max_new_tokens=24)
    assert traced_by(HeadRunner(head, target, make))._replays
    gone = weakref.ref(head)
    del head, decoder
    gc.collect()
    assert gone() is None


def test_a_trace_keeps_no_tensor_of_the_pass() -> None:
    module = Small("")
    traced = TracedPasses(module.config)
    traced.refresh(module)
    cache, x = TreeCache(1, 8), torch.randn(1, 3, 4)

    def eager(x: Tensor, **more: Any) -> Tensor:
        return module(x, cache, x, **more)

    with torch.inference_mode():
        out = traced.run(3, {"x": x}, cache, eager)
    assert traced._traces and not traced._replays
    given, made = weakref.ref(x), weakref.ref(out)
    del x, out
    assert given() is None and made() is None

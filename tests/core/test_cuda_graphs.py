"""Static passes, captured once and replayed, against eager passes."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.generation.prepare import prepare
from sage_core.runtime.cuda import graphs as captured
from sage_core.runtime.cuda.executor import CudaGraphBackend, CudaGraphExecutor
from sage_core.runtime.cuda.graphs import Pass, PassInputs
from sage_core.runtime.cuda.static_cache import StaticCache
from sage_core.runtime.passes import run_passes
from sage_core.runtime.runner import Runner
from sage_core.trees.pass_costs import Costs
from sage_core.trees.tree import TokenTree
from tests.core.replay_on_cpu import record
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.families import FIRST_WORD
from tests.tiny.oracle import check_steps, reference

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def captured_on_cpu() -> CudaGraphBackend:
    """Recorded on the CPU; the kernel's interpreter is not a torch operation."""
    return CudaGraphBackend(capture=record, kernel=False)


def prefilled(runner: Runner, family: str, length: int = 10) -> Runner:
    inputs = make_inputs(runner.model, family, FAMILIES[family].kinds[-1], length=length)
    runner.prefill(prepare(runner.model, {**inputs, "max_new_tokens": 8}), room=70)
    return runner


def a_tree(nodes: int, seed: int) -> TokenTree:
    """A tree whose parents are drawn at random, each token another."""
    random = torch.Generator().manual_seed(seed)
    parents = [int(torch.randint(-1, max(n, 1), (1,), generator=random)) for n in range(nodes)]
    parents = [min(parent, node - 1) for node, parent in enumerate(parents)]
    tokens = tuple(range(FIRST_WORD + seed, FIRST_WORD + seed + nodes))
    return TokenTree(tokens, tuple(parents), (0.5,) * nodes, (0,) * nodes)


def passed(runner: Runner, tree: TokenTree) -> tuple[torch.Tensor, torch.Tensor]:
    logits, hidden = runner.forward((9, *tree.tokens), (0, *tree.depths), tree.visibility)
    return logits.clone(), hidden.clone()


@pytest.mark.parametrize("family", FAMILIES)
def test_replayed_passes_equal_eager_ones(family: str) -> None:
    """The same few recordings serve every tree and every length of the text."""
    model = build_pair(family).target
    made = captured_on_cpu()
    runner, eager = (
        prefilled(Runner(model, made.executor(model)), family),
        prefilled(Runner(model), family),
    )
    for seed, nodes in enumerate((0, 2, 3, 7, 6, 2, 0, 12, 20, 33, 64, 3)):
        tree = a_tree(nodes, seed)
        for got, expected in zip(passed(runner, tree), passed(eager, tree), strict=True):
            torch.testing.assert_close(got, expected, **CLOSE)
        path = tree.path(len(tree) - 1) if nodes else ()
        for one in (runner, eager):
            one.commit([0, *(node + 1 for node in path)])
        assert runner.cache.length == eager.cache.length == runner.committed
    assert [record.rows for record in made.records] == [1, 4, 8, 16, 32, 65]
    assert all(record.captured and record.seconds > 0 for record in made.records)
    assert made.notes == ()


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
def test_levels_of_a_tree_passed_one_by_one(family: str) -> None:
    """As a drafter does it: a level sees columns of the passes before."""
    model = build_pair(family).draft
    runner, eager = (
        prefilled(Runner(model, captured_on_cpu().executor(model)), family),
        prefilled(Runner(model), family),
    )
    tree = TokenTree((10, 11, 12, 13, 14), (-1, -1, 0, 1, 1), (0.5,) * 5, (0, 1, 0, 0, 1))
    rows = tree.visibility
    for one in (runner, eager):
        one.forward((9,), (0,), rows[:1, :1])
        one.forward(tree.tokens[:2], (1, 1), rows[1:3, :3])
    got, expected = (
        one.forward(tree.tokens[2:], (2, 2, 2), rows[3:], last=2) for one in (runner, eager)
    )
    assert got[0].shape == expected[0].shape
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize(
    ("family", "policy"),
    [
        ("llava_onevision", "static"),
        ("llava_onevision", "sage-paper"),
        ("qwen2_5_vl", "autoregressive"),
        ("qwen2_5_vl", "sage"),
        ("qwen3_vl", "static"),
    ],
)
def test_consecutive_texts_are_the_target_s_own(family: str, policy: str) -> None:
    target, draft = build_pair(family)
    made = captured_on_cpu()
    costs = Costs.linear(1.0, 0.001, 0.05)
    decoder = SpeculativeDecoder(target, draft, policy, costs=costs, backend=made)
    captures = 0
    for length, kind in ((20, FAMILIES[family].kinds[-1]), (9, "text"), (14, "text")):
        inputs = make_inputs(target, family, kind, length=length)
        expected = reference(target, inputs, max_new_tokens=30)
        output = decoder.generate(**inputs, max_new_tokens=30)
        prompt = inputs["input_ids"].shape[1]
        check_steps(output.steps, output.sequences[0, prompt:].tolist())
        assert output.sequences.tolist() == expected.tolist()
        gc.collect()
        captures = captures or len(made.records)
    # The later texts are shorter: storage stays, and what a row count has recorded with it.
    caches = 1 if policy == "autoregressive" else 2
    assert len(made._all) == len(made._free) == caches
    rows = [(record.model, record.rows) for record in made.records]
    assert len(rows) == len(set(rows)) >= captures


def test_passes_that_cannot_be_captured_run_eagerly_with_a_note() -> None:
    def refuse(function: Pass) -> Pass:
        record(lambda: (function()[0].nonzero(), torch.zeros(1)))
        raise AssertionError("the tape records what waits for the device")

    target, draft = build_pair("qwen2")
    inputs = make_inputs(target, "qwen2", "text")
    made = CudaGraphBackend(capture=refuse, kernel=False)
    output = SpeculativeDecoder(target, draft, "static", backend=made).generate(
        **inputs, max_new_tokens=12
    )
    expected = reference(target, inputs, max_new_tokens=12)
    assert output.sequences.tolist() == expected.tolist()
    assert made.records and not any(record.captured for record in made.records)
    assert any("be captured: nonzero waits for the device" in note for note in made.notes)


def test_two_texts_at_once_do_not_share_storage() -> None:
    target, draft = build_pair("qwen2")
    decoder = SpeculativeDecoder(target, draft, "chain", backend=captured_on_cpu())
    prompts = [make_inputs(target, "qwen2", "text", length=n) for n in (8, 13)]
    streams = [decoder.stream(**inputs, max_new_tokens=16) for inputs in prompts]
    live = list(streams)
    while live:  # a step each in turn
        live = [stream for stream in live if next(stream, None) is not None]
    for stream, inputs in zip(streams, prompts, strict=True):
        expected = reference(target, inputs, max_new_tokens=16)
        assert stream.output().sequences.tolist() == expected.tolist()


def test_more_columns_than_bits_are_passed_eagerly() -> None:
    model = build_pair("qwen2").target
    made = captured_on_cpu()
    runner, eager = (
        prefilled(Runner(model, made.executor(model)), "qwen2"),
        prefilled(Runner(model), "qwen2"),
    )
    tree = a_tree(70, 0)
    torch.testing.assert_close(passed(runner, tree), passed(eager, tree), **CLOSE)
    assert made.records == ()
    assert [note for note in made.notes if "71 tree columns" in note]


def test_passes_are_captured_again_when_storage_grows() -> None:
    model = build_pair("qwen2").target
    made = captured_on_cpu()
    runner, eager = Runner(model, made.executor(model)), Runner(model)
    for one in (runner, eager):
        inputs = make_inputs(model, "qwen2", "text", length=6)
        one.prefill(prepare(model, {**inputs, "max_new_tokens": 8}), room=1)
    storage = runner.cache.capacity
    for round_ in range(6):
        tree = a_tree(31, round_)
        torch.testing.assert_close(passed(runner, tree), passed(eager, tree), **CLOSE)
        for one in (runner, eager):
            one.commit([])
            run_passes(one.extend([FIRST_WORD + i for i in range(20)]))
    assert runner.cache.capacity > storage
    assert len(made.records) > len({record.rows for record in made.records})


def test_without_cuda_a_pass_is_static_but_not_captured() -> None:
    made = CudaGraphBackend(kernel=False)
    runner = prefilled(Runner(model := build_pair("qwen2").target, made.executor(model)), "qwen2")
    passed(runner, a_tree(3, 0))
    assert [(record.rows, record.captured) for record in made.records] == [(4, False)]
    assert ["CUDA graphs need a CUDA device" in note for note in made.notes] == [True]


@pytest.mark.parametrize("counts", [(0, 4), (4, 4), (8, 4), (1, 66)])
def test_row_counts_are_checked(counts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ascending row counts"):
        CudaGraphBackend(counts)


def test_outputs_are_not_overwritten_by_the_next_pass() -> None:
    runner = prefilled(
        Runner(model := build_pair("qwen2").target, captured_on_cpu().executor(model)), "qwen2"
    )
    first, _ = runner.forward((9,), (0,), TokenTree().visibility)
    before = first.clone()
    runner.commit([0])
    runner.forward((10,), (0,), TokenTree().visibility)
    assert torch.equal(first, before)


def test_sampling_is_that_of_eager_passes() -> None:
    """Equal seeds give equal texts: what drafts keep for their acceptance is not overwritten."""
    target, draft = build_pair("qwen2_5_vl")
    inputs = make_inputs(target, "qwen2_5_vl", "image")
    texts = []
    for runner in (None, captured_on_cpu()):
        decoder = SpeculativeDecoder(target, draft, "static", backend=runner)
        torch.manual_seed(3)
        output = decoder.generate(**inputs, max_new_tokens=24, do_sample=True, temperature=0.8)
        texts.append(output.sequences.tolist())
    assert texts[0] == texts[1]


def test_padding_changes_nothing() -> None:
    """One row served by passes of one and of sixty-four rows."""
    model = build_pair("qwen2_5_vl").target
    outputs = []
    for counts in ((1,), (64,)):
        made = CudaGraphBackend(counts, record, kernel=False)
        outputs.append(
            passed(prefilled(Runner(model, made.executor(model)), "qwen2_5_vl"), TokenTree())
        )
    torch.testing.assert_close(outputs[0], outputs[1], **CLOSE)


def test_a_capture_with_a_constant_length_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tape tells graph-safe code from code that is not."""
    honest = captured.static_pass

    def frozen(model: Any, cache: StaticCache, inputs: PassInputs, *how: Any) -> Any:
        later = PassInputs(
            inputs.packed,
            inputs.tokens,
            inputs.positions,
            inputs.words,
            inputs.committed.clone(),
            torch.full_like(inputs.first, cache.length),
        )
        return honest(model, cache, later, *how)

    monkeypatch.setattr(captured, "static_pass", frozen)
    model = build_pair("qwen2").target
    runner, eager = (
        prefilled(Runner(model, captured_on_cpu().executor(model)), "qwen2"),
        prefilled(Runner(model), "qwen2"),
    )
    assert isinstance(runner.executor, CudaGraphExecutor)
    seen = []
    for seed in range(2):
        tree = a_tree(3, seed)
        seen.append([passed(one, tree)[0] for one in (runner, eager)])
        for one in (runner, eager):
            one.commit([0])
    torch.testing.assert_close(*seen[0], **CLOSE)
    assert not torch.allclose(*seen[1], **CLOSE)

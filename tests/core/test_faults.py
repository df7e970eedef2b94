"""Costs, acceptance and state that once went where they did not belong."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import sage_core
from sage_core.engine.costs import calibration
from sage_core.engine.costs.calibration import MIN_SECONDS, SHARE, PassTimer
from sage_core.engine.costs.store import CostStore
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import OptionError
from sage_core.generate import CustomGenerate
from sage_core.generation.json_schema import JsonGrammar
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policies.static import StaticPlanner
from sage_core.trees.steps import Step
from tests.tiny import build_pair, make_inputs
from tests.tiny.families import FIRST_WORD


class Forcing(JsonGrammar):
    """Forces four tokens at every other step; allows everything."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores

    def forced(self, ids: torch.Tensor) -> list[int]:
        self.calls += 1
        return [FIRST_WORD] * 4 if self.calls % 2 else []


def test_forced_tokens_do_not_reach_the_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    observed: list[int] = []
    observe = StaticPlanner.observe

    def record(self: StaticPlanner, tree: Any, nodes: Any, tokens: Any) -> None:
        observed.append(len(tree))
        observe(self, tree, nodes, tokens)

    monkeypatch.setattr(StaticPlanner, "observe", record)
    target, draft = build_pair("llama")
    inputs = make_inputs(target, "llama", "text", length=9)
    options = {"max_new_tokens": 30, "logits_processor": [Forcing()]}
    steps = SpeculativeDecoder(target, draft, "static").generate(**inputs, **options).steps[1:]
    forced = [step for step in steps if "forced" in step.shape.note]
    assert forced and all(step.tree.depth <= 4 and not step.draft_passes for step in forced)
    own = [len(step.tree) for step in steps if step not in forced]
    assert observed == own


def test_calls_of_custom_generate_share_what_they_make() -> None:
    generate = CustomGenerate()
    target, draft = build_pair("qwen2_5_vl")
    inputs = make_inputs(target, "qwen2_5_vl", "image", length=9)
    plain = target.generate(**inputs, do_sample=False, max_new_tokens=24)
    attributes = {name: set(vars(module)) for name, module in target.named_modules()}
    traces: list[Any] = []
    for _ in range(2):
        got = target.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=24,
            custom_generate=generate,
            draft_model=draft,
        )
        assert got.tolist() == plain.tolist()
        traces.append([dict(one._replays) for one in generate._backend._traced.values()])
    assert len(traces[0]) == 2 and any(traces[0])
    for before, after in zip(*traces, strict=True):
        assert all(after[kind] is function for kind, function in before.items())
    assert {name: set(vars(module)) for name, module in target.named_modules()} == attributes


def test_custom_generate_keeps_no_model_alive() -> None:
    generate = CustomGenerate()
    target = build_pair.__wrapped__("llama").target
    inputs = make_inputs(target, "llama", "text", length=9)
    options = {"custom_generate": generate, "lookup": "ngram", "policy": "chain"}
    target.generate(**inputs, do_sample=False, max_new_tokens=12, **options)
    assert len(generate._backend._traced) == 1
    gone = weakref.ref(target)
    del target, inputs
    gc.collect()
    assert gone() is None and not len(generate._backend._traced)


class Clock:
    """Time that passes by the passes that are timed."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        return self.now


class SlowTimer(PassTimer):
    """Makes no passes: each takes a time that grows with its tokens."""

    def __init__(self, clock: Clock) -> None:
        target: Any = type("Target", (), {"device": torch.device("cpu"), "truncate": print})
        drafter: Any = type("Drafter", (), {"discard_timed": print})
        super().__init__(target, drafter, 4)
        self.clock = clock
        self.passes = 0

    def _pass(self, model: str, size: int, depth: int) -> Any:
        self.passes += 1
        self.clock.now += self.clock.seconds * (1 + size / 64)
        return
        yield


def finished(generator: Any) -> Any:
    with pytest.raises(StopIteration) as end:
        next(generator)
    return end.value.value


@pytest.mark.parametrize(
    ("seconds", "tokens"), [(0.001, 20), (0.01, 200), (0.1, 200), (1.0, 1000), (10.0, 8)]
)
def test_calibration_before_the_first_tree_is_bounded(
    seconds: float, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(seconds)
    monkeypatch.setattr(calibration, "perf_counter", clock)
    timer = SlowTimer(clock)
    finished(timer.start(tokens))
    limit = max(MIN_SECONDS, SHARE * tokens * seconds * (1 + 1 / 64))
    # One pass may have begun before the limit; three sizes are timed in any case.
    assert clock.now <= max(limit + 2 * seconds, 3 * 1.25 * seconds + limit)
    assert timer.passes >= 3 and len(timer.costs.target) >= 2
    allowance = 0.0
    for _ in range(100):
        if timer.done:
            break
        allowance += 2 * seconds
        spent = finished(timer.resume(allowance))
        assert spent <= allowance + 2 * seconds
        allowance -= spent
    assert timer.done, "what is left is timed between later steps"
    assert [size for size, _ in timer.costs.target] == [1, 2, 4, 8, 16, 32, 64]


def test_a_size_that_takes_longer_than_allowed_waits() -> None:
    clock = Clock(1.0)
    timer = SlowTimer(clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "perf_counter", clock)
        finished(timer.start(1))
        before = timer.passes
        assert finished(timer.resume(0.5)) == 0.0 and timer.passes == before


@pytest.mark.real_costs
def test_costs_are_refined_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(calibration, "SHARE", 1e-9)
    store = CostStore()
    target, draft = build_pair("llama")
    inputs = make_inputs(target, "llama", "text", length=9)
    decoder = SpeculativeDecoder(target, draft, "sage", costs=store)
    first = decoder.stream(**inputs, max_new_tokens=40)
    next(first)
    next(first)
    (known,) = store._new_costs.values()
    assert len(known.target) == 2, "only what is needed"
    monkeypatch.setattr(calibration, "SHARE", 1e3)
    steps = list(first)
    assert isinstance(steps[-1], Step)
    (known,) = store._new_costs.values()
    assert [size for size, _ in known.target] == [1, 2, 4, 8, 16, 32, 64]
    wanted = target.generate(**inputs, do_sample=False, max_new_tokens=40)
    assert first.output().sequences.tolist() == wanted.tolist()


def test_the_device_is_waited_for_only_when_phases_are_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sage_core.engine.loop import _Clock

    waits: list[Any] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    for wait in (False, True):
        clock = _Clock(torch.device("cuda"), wait)
        assert clock.lap() >= 0 and bool(waits) == wait
    target, draft = build_pair("llama")
    assert not SpeculativeDecoder(target, draft).settings.phase_times
    assert SpeculativeDecoder(target, draft).settings.times_phases, "a CPU needs no waiting"


def test_a_policy_that_drafts_is_refused_without_a_draft() -> None:
    target, _ = build_pair("llama")
    with pytest.raises(OptionError, match="sage needs"):
        SpeculativeDecoder(target, policy="sage")
    assert SpeculativeDecoder(target).policy.name == "autoregressive"
    assert SpeculativeDecoder(target, "ngram").policy.name == "sage"
    pipeline = sage_core.load(draft=None)
    with pytest.raises(OptionError, match="sage needs"):
        pipeline.caption("examples/shapes.png", policy="sage")
    assert pipeline.caption("examples/shapes.png", max_new_tokens=4).policy == "autoregressive"


def test_a_library_user_gets_no_cost_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_COSTS", str(tmp_path / "costs.json"))
    pipeline = sage_core.load()
    pipeline.caption("examples/shapes.png", max_new_tokens=12)
    del pipeline
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real_costs
def test_a_cost_file_that_was_asked_for_is_written_once_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    pipeline = sage_core.load(costs=path)
    pipeline.caption("examples/shapes.png", max_new_tokens=24)
    assert not path.exists()
    del pipeline
    gc.collect()
    data = json.loads(path.read_text())
    assert len(data["costs"]) == len(data["learned"]) == 1
    assert Costs(
        **{
            k: tuple(map(tuple, v)) if isinstance(v, list) else v
            for k, v in next(iter(data["costs"].values())).items()
        }
    )

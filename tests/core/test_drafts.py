"""A draft changes only the speed: right, wrong, garbage, of another size; it touches nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from sage_core.engine.decoder import SpeculativeDecoder
from tests.core.test_exactness import assert_exact
from tests.tiny import (
    FAMILIES,
    build_pair,
    garbage_draft,
    make_inputs,
    perfect_draft,
    wrong_draft,
)
from tests.tiny.oracle import reference

POLICIES = ("chain", "static", "sage")
RICHEST = {family: spec.kinds[-1] for family, spec in FAMILIES.items()}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_draft_that_is_always_right(family: str, policy: str) -> None:
    target, _ = build_pair(family)
    inputs = make_inputs(target, family, RICHEST[family])
    output = assert_exact(target, perfect_draft(target), policy, inputs, max_new_tokens=40)
    for step in output.steps[1:-1]:
        ranks = [step.tree.ranks[node] for node in step.accepted]
        assert ranks == [0] * len(ranks), "a right draft's first choices all hold"
    assert output.stats.mean_accepted > 1
    if policy == "chain":
        assert [len(step.accepted) for step in output.steps[1:-1]] == [5] * (len(output.steps) - 2)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_draft_that_is_always_wrong(family: str, policy: str) -> None:
    target, _ = build_pair(family)
    inputs = make_inputs(target, family, RICHEST[family])
    output = assert_exact(target, wrong_draft(target), policy, inputs, max_new_tokens=20)
    assert output.stats.mean_accepted == 0
    assert output.stats.steps == 19, "a step commits the target's own token, whatever was drafted"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_garbage_draft(family: str, policy: str) -> None:
    target, _ = build_pair(family)
    inputs = make_inputs(target, family, RICHEST[family])
    assert_exact(target, garbage_draft(family), policy, inputs, max_new_tokens=24)


@pytest.mark.parametrize("policy", ["static", "sage"])
def test_the_target_as_its_own_draft(policy: str) -> None:
    """One object in both roles: positions and caches must still not be mixed up."""
    target, _ = build_pair("qwen3_vl")
    inputs = make_inputs(target, "qwen3_vl", "mixed")
    output = assert_exact(target, target, policy, inputs, max_new_tokens=30)
    assert output.stats.mean_accepted > 2


def _with_vocabulary(model: Any, size: int) -> Any:
    """A copy with ``size`` rows of embedding and head, as checkpoints that pad differently."""
    other = copy.deepcopy(model)
    other.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        other.lm_head.weight[160:] = 10 * other.lm_head.weight[50]  # tempting, were it allowed
    return other


@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.2}], ids=["plain", "penalty"])
@pytest.mark.parametrize("size", [120, 192])
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "llama"])
def test_vocabularies_padded_to_different_sizes(
    family: str, size: int, settings: dict[str, Any]
) -> None:
    target, draft = build_pair(family)
    inputs = make_inputs(target, family, RICHEST[family])
    inputs["input_ids"].clamp_(max=119)
    draft = _with_vocabulary(draft, size)
    if size < 160:  # the text must stay within what the draft can read
        settings = {**settings, "suppress_tokens": list(range(size, 160))}
    for policy in POLICIES:
        output = assert_exact(target, draft, policy, inputs, max_new_tokens=24, **settings)
        drafted = {token for step in output.steps for token in step.tree.tokens}
        assert max(drafted) < min(size, 160)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_target_token_beyond_the_draft_s_vocabulary(policy: str) -> None:
    """The target may say what the draft cannot even read."""
    target, draft = build_pair("llama")
    inputs = make_inputs(target, "llama", "text")
    inputs["input_ids"].clamp_(max=99)
    new = reference(target, inputs, max_new_tokens=24)[0, inputs["input_ids"].shape[1] :]
    assert new.max() >= 100, "the text never leaves the draft's vocabulary"
    assert_exact(target, _with_vocabulary(draft, 100), policy, inputs, max_new_tokens=24)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_allowed_token_and_a_smaller_draft_vocabulary(policy: str) -> None:
    """More branches than tokens with any probability: the draft must not be fed what is left."""
    target, draft = build_pair("llama")
    inputs = make_inputs(target, "llama", "text")
    inputs["input_ids"].clamp_(max=99)
    assert_exact(
        target,
        _with_vocabulary(draft, 100),
        policy,
        inputs,
        max_new_tokens=12,
        prefix_allowed_tokens_fn=lambda batch, ids: [8 + len(ids) % 90],
    )


def _state(model: Any) -> dict[str, Any]:
    """Everything a model holds: parameters, buffers (also those not saved), plain attributes."""
    state: dict[str, Any] = {f"p {name}": t.clone() for name, t in model.named_parameters()}
    state |= {f"b {name}": t.clone() for name, t in model.named_buffers()}
    for name, module in model.named_modules():
        state[f"mode {name}"] = module.training
        for key, value in vars(module).items():
            if key == "rope_deltas":
                state[f"deltas {name}"] = None if value is None else value.clone()
            elif key.startswith("_") and key.endswith("hooks"):
                state[f"{key} {name}"] = len(value)
            elif not key.startswith("_"):
                state[f"{key} {name}"] = id(value)
    state["generation"] = str(model.generation_config)
    return state


def _assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for name, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, after[name]), name
        else:
            assert value == after[name], name


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl_moe"])
def test_the_target_is_left_as_generate_leaves_it(family: str) -> None:
    """Whatever the draft does, no weight, buffer, hook, mode or position offset of it changes."""
    target, draft = build_pair(family)
    kinds = [kind for kind in ("video", "mixed", "text") if kind in FAMILIES[family].kinds]
    for kind in kinds:
        inputs = make_inputs(target, family, kind)
        for model in (target, draft):  # transformers sets up a few things at the first use
            reference(model, inputs, max_new_tokens=2)
        before, draft_before = _state(target), _state(draft)
        SpeculativeDecoder(target, draft, "sage").generate(**inputs, max_new_tokens=20)
        _assert_same_state(before, _state(target))
        weights = {k: v for k, v in draft_before.items() if not k.startswith("deltas")}
        after = {k: v for k, v in _state(draft).items() if not k.startswith("deltas")}
        _assert_same_state(weights, after)


def test_the_draft_s_prompt_may_differ_from_the_target_s() -> None:
    """A draft left with another prompt's positions, between the steps of a text, does no harm."""
    target, draft = build_pair("qwen2_5_vl")
    inputs = make_inputs(target, "qwen2_5_vl", "video")
    other = make_inputs(target, "qwen2_5_vl", "text", length=33)
    expected = reference(target, inputs, max_new_tokens=24)
    stream = SpeculativeDecoder(target, draft, "sage").stream(**inputs, max_new_tokens=24)
    for _ in stream:
        target.generate(**other, max_new_tokens=2, do_sample=False)
        draft.generate(**other, max_new_tokens=2, do_sample=False)
    assert torch.equal(stream.output().sequences, expected)


TOWERS = {"llava": "vision_tower", "llava_onevision": "vision_tower", "qwen2_5_vl": "visual"}


@pytest.mark.parametrize("kind", ["image", "images", "video", "mixed"])
@pytest.mark.parametrize("family", TOWERS)
def test_a_shared_vision_tower_runs_no_more_often_than_for_generate(family: str, kind: str) -> None:
    if kind not in FAMILIES[family].kinds:
        pytest.skip(f"{family} takes no {kind}")
    target, draft = (copy.deepcopy(model) for model in build_pair(family))
    tower = getattr(target.model, TOWERS[family])
    setattr(draft.model, TOWERS[family], tower)
    inputs = make_inputs(target, family, kind)
    calls: list[int] = []
    handle = tower.register_forward_hook(lambda *_: calls.append(1))
    expected = reference(target, inputs, max_new_tokens=20)
    alone = len(calls)
    calls.clear()
    output = SpeculativeDecoder(target, draft, "sage").generate(**inputs, max_new_tokens=20)
    handle.remove()
    assert torch.equal(output.sequences, expected)
    assert 0 < len(calls) <= alone
    assert getattr(draft.model, TOWERS[family]) is tower, "the draft gets its tower back"

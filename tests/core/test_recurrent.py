"""Layers with a convolution or recurrent state: trees from it, the accepted path replayed on it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sage_core
from sage_core.drafts.head.init import new_head
from sage_core.engine import trial
from sage_core.engine.model_check import look
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.generation.prepare import prepare
from sage_core.runtime.recurrent import LOGGED, RecurrentLayer, StateFunctions
from sage_core.runtime.runner import Runner
from sage_core.runtime.tree_columns import TreeColumns
from tests.core.exact_texts import RULES as LONG
from tests.core.exact_texts import (
    assert_own_sampled_and_padded,
    assert_own_text,
    inputs,
    near,
)
from tests.core.test_trial import ids, make
from tests.tiny import make_inputs
from tests.tiny.families import ALL_KINDS, FAMILIES, HYBRID
from tests.tiny.pairs import _build

SIZES = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
         "linear_value_head_dim": 8}  # fmt: skip
RULE = {"num_hidden_layers": 3, "layer_types": ["linear_attention"] * 2 + ["full_attention"]}
CONV = {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARED = {"shared_expert_intermediate_size": 16, "decoder_sparse_step": 1}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_5": ("Qwen3_5Text", SIZES | RULE),
    "qwen3_5_moe": ("Qwen3_5MoeText", SIZES | RULE | EXPERTS | SHARED),
    "qwen3_next": ("Qwen3Next", SIZES | RULE | EXPERTS | SHARED),
    "lfm2": ("Lfm2", CONV),
    "lfm3, windows": (
        "Lfm3",
        {
            "num_hidden_layers": 4,
            "layer_types": ["conv", "sliding_attention", "full_attention", "conv"],
            "sliding_window": 12,
        },
    ),
    "olmo_hybrid": ("OlmoHybrid", SIZES | RULE),
    "lfm2_moe": ("Lfm2Moe", CONV | EXPERTS | {"num_dense_layers": 1}),
}
RULES: dict[str, Any] = {**LONG, "max_new_tokens": 24}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    return make(*KINDS[request.param])


@pytest.mark.parametrize("prompt", [1, 30])
def test_texts_are_the_models_own(model: Any, prompt: int) -> None:
    assert assert_own_text(model, prompt, RULES) > 5


def test_sampled_and_in_a_batch(model: Any) -> None:
    assert_own_sampled_and_padded(model, RULES)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_pictures_and_clips(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "qwen3_5", HYBRID["qwen3_5"])
    model = _build("qwen3_5", 3, seed=0)
    given = make_inputs(model, "qwen3_5", kind)
    own = model.generate(**given, max_new_tokens=16, do_sample=False)
    decoder = sage_core.SpeculativeDecoder(model, near(model), "static")
    output = decoder.generate(**given, max_new_tokens=16, do_sample=False)
    assert torch.equal(output.sequences, own)
    assert output.stats.steps < 12


@pytest.mark.parametrize("kind", ["Qwen3_5Text", "Lfm2"])
def test_with_a_head_or_a_lookup(kind: str) -> None:
    last = {"layer_types": ["full_attention", "conv"]}  # the head copies a layer with attention
    rule = {"layer_types": ["linear_attention", "full_attention"]}
    model = make(kind, last if kind == "Lfm2" else SIZES | rule)
    rules = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}
    own = model.generate(**inputs(9), **rules)
    for draft, options in ((new_head(model, name="it"), {}), (None, {"lookup": True})):
        decoder = sage_core.SpeculativeDecoder(model, draft, "static", **options)
        assert torch.equal(decoder.generate(**inputs(9), **rules).sequences, own)


@pytest.mark.parametrize("policy", ["static", "autoregressive"])
def test_a_conversation_goes_on_or_is_cut_back(model: Any, policy: str) -> None:
    draft = near(model) if policy == "static" else None
    decoder = sage_core.SpeculativeDecoder(model, draft, policy)
    reuse = PrefixReuse()
    rules = {**RULES, "max_new_tokens": 20}
    prompt = ids(30)

    def turn(whole: torch.Tensor) -> torch.Tensor:
        given = {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
        stream = decoder.stream(reuse=reuse, **given, **rules)
        list(stream)
        own = model.generate(**given, **rules)
        assert torch.equal(stream.output().sequences, own)
        return own

    other = torch.tensor([[7, 8, 9]])
    first = turn(prompt)
    second = turn(torch.cat([first, other], dim=1))  # goes on
    assert reuse.reused == 49
    turn(torch.cat([second[:, :60], other], dim=1))  # cut back within the answer
    assert reuse.reused == 60
    turn(torch.cat([second[:, :60], other[:, :1], other], dim=1))  # within what was read since
    assert reuse.reused == 61
    turn(torch.cat([prompt, other, other], dim=1))  # back to the end of the first prompt
    assert reuse.reused == 30
    turn(torch.cat([prompt[:, :20], other], dim=1))  # within it: read again
    assert reuse.reused == 0


def states(runner: Runner) -> list[torch.Tensor]:
    found = []
    for layer in runner.cache.states:
        both = (layer.conv_states[0][..., 1:], layer.recurrent_states[0])
        found += [one.clone() for one in both if one is not None]
    return found


def test_how_far_a_state_goes_back(model: Any) -> None:
    runner = Runner(model)
    runner.prefill(prepare(model, inputs(9), {"max_new_tokens": 4, "pad_token_id": 0}), 400)
    at: dict[int, list[torch.Tensor]] = {9: states(runner)}
    tokens = ids(3 * LOGGED)[0].tolist()
    for start in range(0, len(tokens), 3):
        runner.forward(tokens[start : start + 3], [0, 1, 2], np.tril(np.ones((3, 3), dtype=bool)))
        runner.commit([0, 1, 2])
        at[runner.committed] = states(runner)
    end = runner.committed
    assert runner.restorable(0) == end
    reached = [slot for slot in sorted(at) if runner.cache.restorable(slot) == slot]
    assert reached[0] == 9 and len(reached) >= LOGGED // 3 + 1
    assert runner.cache.restorable(8) == 0
    for slot in reversed(reached):
        runner.truncate(runner.committed - slot)
        for found, own in zip(states(runner), at[slot], strict=True):
            torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="no state at slot 8"):
        runner.truncate(1)


def test_a_long_text_is_read_on_by_chunks(model: Any) -> None:
    runner, whole = Runner(model), Runner(model)
    tokens = ids(210)[0].tolist()
    rules = {"max_new_tokens": 4, "pad_token_id": 0}
    whole.prefill(prepare(model, inputs(210), rules), 8)
    runner.prefill(prepare(model, inputs(10), rules), 8)
    n = 200
    runner.forward(tokens[10:], range(n), np.tril(np.ones((n, n), dtype=bool)), last=1)
    runner.commit(range(n))
    for found, own in zip(states(runner), states(whole), strict=True):
        torch.testing.assert_close(found, own, rtol=1e-3, atol=1e-3)


def test_a_look_at_a_loaded_model(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    look(model)
    monkeypatch.setattr(
        RecurrentLayer, "convolve", lambda self, step, inputs, *args: torch.zeros_like(inputs)
    )
    with pytest.raises(sage_core.SageError):
        look(model)


def test_a_wrong_parent_is_found_by_the_trial(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node is computed from the column before it, as in a chain."""

    class Chain(TreeColumns):
        def __init__(self, before: TreeColumns | None, visible: np.ndarray) -> None:
            super().__init__(before, np.tril(np.ones(visible.shape, dtype=bool)))

    monkeypatch.setattr("sage_core.runtime.runner.TreeColumns", Chain)
    verdict = trial.try_class("chained", model.config, type(model)._from_config)
    assert "a pass over a tree does not reproduce" in verdict.reason


def test_the_functions_are_the_models_own_again(model: Any) -> None:
    layers = list(Runner(model).decoder.layers)
    functions = StateFunctions.of(layers)
    names = [dict(one) for one in functions.names]
    with pytest.raises(RuntimeError, match="an error in a pass"):  # noqa: SIM117
        with functions.exchanged():
            assert [dict(one) for one in functions.names] != names
            own = model(ids(9)).logits  # of another text meanwhile
            raise RuntimeError("an error in a pass")
    assert [dict(one) for one in functions.names] == names
    assert torch.equal(own, model(ids(9)).logits)


def test_threads_decode_at_the_same_time(model: Any) -> None:
    found: list[Any] = []
    own = model.generate(**inputs(5), **RULES)

    def decode() -> None:
        decoder = sage_core.SpeculativeDecoder(model, None, "autoregressive")
        found.append(decoder.generate(**inputs(5), **RULES).sequences)

    threads = [threading.Thread(target=decode) for _ in range(2)]
    for thread in threads:
        thread.start()
    plain = model.generate(**inputs(5), **RULES)
    for thread in threads:
        thread.join()
    assert all(torch.equal(one, own) for one in [*found, plain]) and len(found) == 2


def test_states_of_another_kind_are_refused() -> None:
    model = make("Jamba", {"attn_layer_offset": 1, "attn_layer_period": 2})
    verdict = trial.try_class("jamba", model.config, type(model)._from_config)
    assert verdict.reason == (
        "the state of JambaMambaMixer is neither a short convolution nor a gated delta rule"
    )


@given(st.data())
def test_paths_and_windows_of_columns(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 9))
    parents = [data.draw(st.integers(-1, column - 1)) for column in range(count)]
    paths: list[list[int]] = []
    visible = np.zeros((count, count), dtype=bool)
    for column, parent in enumerate(parents):
        paths.append([*(paths[parent] if parent >= 0 else []), column])
        visible[column, paths[column]] = True
    first = data.draw(st.integers(0, count - 1))
    before = None if first == 0 else TreeColumns(None, visible[:first, :first])
    columns = TreeColumns(before, visible[first:])
    assert columns.paths == paths
    passed = [-1, *(before.kept if before else [])]
    assert {*range(first, count)} <= {one for level, _ in columns.levels for one in level}
    for level, above in columns.levels:
        for column, row in zip(level, above, strict=True):
            assert parents[column] == passed[row]
        passed = level
    for row, path in zip(columns.windows(3, torch.device("cpu")), paths[first:], strict=True):
        assert row.tolist() == [0, 1, 2, *(3 + one for one in path[:-1])][-3:]

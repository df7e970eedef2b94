"""Layers that attend to a sliding window or a chunk: texts that cross it several times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sage_core.engine import trial
from sage_core.generation.prepare import prepare
from sage_core.runtime.attention.observe import observe_attention
from sage_core.runtime.runner import Runner
from sage_core.runtime.tree_mask import TreeMaskBuffer
from sage_core.runtime.windows import LayerKinds, Window
from tests.core.exact_texts import RULES, assert_own_sampled_and_padded, assert_own_text, inputs
from tests.core.test_trial import make

WINDOW = 12
TYPES = {"layer_types": ["sliding_attention", "full_attention"]}
SHARED = {
    "num_hidden_layers": 5,
    "layer_types": ["sliding_attention", "full_attention"] * 2 + ["full_attention"],
    "num_kv_shared_layers": 3,
    "sliding_window": WINDOW,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("Mistral", {"sliding_window": WINDOW}),
    "mixtral": ("Mixtral", {"sliding_window": WINDOW}),
    "phi3": ("Phi3", {"sliding_window": WINDOW}),
    "starcoder2": ("Starcoder2", {"sliding_window": WINDOW}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": WINDOW,
                        "max_window_layers": 1}),
    "gemma3": ("Gemma3Text", {"sliding_window": WINDOW, **TYPES}),
    "gemma3, capped": ("Gemma3Text", {"sliding_window": WINDOW, "final_logit_softcapping": 3.0,
                                      **TYPES}),
    "gemma3n": ("Gemma3nText", {**SHARED, "vocab_size_per_layer_input": 96,
                                "hidden_size_per_layer_input": 8, "laurel_rank": 8,
                                "activation_sparsity_pattern": [0.0] * 5,
                                "intermediate_size": [48] * 5}),
    "gemma4": ("Gemma4Text", {**SHARED, "global_head_dim": 16, "vocab_size_per_layer_input": 96,
                              "hidden_size_per_layer_input": 8}),
    "cohere2": ("Cohere2", {"sliding_window": WINDOW, **TYPES}),
    "olmo3": ("Olmo3", {"sliding_window": WINDOW, **TYPES}),
    "exaone4": ("Exaone4", {"sliding_window": WINDOW, **TYPES}),
    "ministral": ("Ministral", {"sliding_window": WINDOW, **TYPES}),
    "llama4": ("Llama4Text", {"attention_chunk_size": 16, "intermediate_size_mlp": 48,
                              "layer_types": ["chunked_attention", "full_attention"],
                              "no_rope_layers": [1, 0], "moe_layers": [1]}),
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    return make(*KINDS[request.param])


@pytest.mark.parametrize("prompt", [3, 30])
def test_texts_that_cross_the_window_are_the_models_own(model: Any, prompt: int) -> None:
    assert assert_own_text(model, prompt, RULES) > 10  # trees do reach over the border


def test_sampled_and_in_a_batch(model: Any) -> None:
    assert_own_sampled_and_padded(model, RULES)


def test_a_window_that_is_ignored_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, fields = KINDS["gemma3"]
    model = make(kind, fields)
    monkeypatch.setattr(
        LayerKinds, "of", lambda config: LayerKinds({"": None}, ("",) * config.num_hidden_layers)
    )
    verdict = trial.try_class("ignored", model.config, type(model)._from_config)
    assert "looks back 12 tokens only (sliding_window)" in verdict.reason


def slow_mask(
    visible: np.ndarray, committed: int, depths: list[int], size: int, chunks: bool
) -> list[list[bool]]:
    """Row by row, for all slots."""
    n, columns = visible.shape
    rows = []
    for i in range(n):
        query = committed + depths[columns - n + i]
        row = []
        for slot in range(committed):
            row.append(slot // size == query // size if chunks else query - slot < size)
        for column in range(columns):
            at = committed + depths[column]
            near = at // size == query // size if chunks else query - at < size
            row.append(bool(visible[i, column]) and near)
        rows.append(row)
    return rows


@given(st.data())
def test_the_mask_of_a_window(data: st.DataObject) -> None:
    columns = data.draw(st.integers(1, 8))
    n = data.draw(st.integers(1, columns))
    committed = data.draw(st.integers(0, 20))
    size, chunks = data.draw(st.integers(1, 9)), data.draw(st.booleans())
    depths = data.draw(st.lists(st.integers(0, 6), min_size=columns, max_size=columns))
    bits = data.draw(st.lists(st.booleans(), min_size=n * columns, max_size=n * columns))
    visible = np.array(bits).reshape(n, columns)
    visible[np.arange(n), columns - n + np.arange(n)] = True
    window = Window(size, chunks)
    buffer = TreeMaskBuffer(torch.device("cpu"), torch.float32)
    mask = buffer.windowed(visible, committed, np.array(depths), window)[0, 0]
    expected = slow_mask(visible, committed, depths, size, chunks)
    first = window.first(committed)
    assert not any(seen for row in expected for seen in row[:first])
    assert ((mask == 0).numpy() == np.array(expected)[:, first:]).all()


def test_attention_does_not_grow_beyond_the_window() -> None:
    kind, fields = KINDS["gemma3"]
    model = make(kind, {**fields, "max_position_embeddings": 512})
    seen: list[int] = []
    runner = Runner(model)
    prepared = prepare(model, inputs(200), {"max_new_tokens": 4, "pad_token_id": 0})
    runner.prefill(prepared, 8)
    with observe_attention(runner.decoder, lambda query, key, scale: seen.append(key.shape[-2])):
        runner.forward([5, 6, 7], [0, 1, 1], np.tril(np.ones((3, 3), dtype=bool)))
    assert seen == [WINDOW + 2, 203]

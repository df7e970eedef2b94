"""Caches and positions: compacted equals freshly prefilled; a tree pass equals plain sequences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.generation.prepare import prepare
from sage_core.runtime.kv_cache import TreeCache
from sage_core.runtime.runner import Runner
from sage_core.trees.tree import TokenTree
from tests.core.test_tree import trees
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.families import FIRST_WORD, VOCAB

FAMILY_KINDS = [(family, kind) for family, spec in FAMILIES.items() for kind in spec.kinds]
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def extended(inputs: dict[str, torch.Tensor], tokens: list[int]) -> dict[str, torch.Tensor]:
    """The inputs of one forward over prompt and ``tokens``, as if all had been the prompt."""
    more = torch.tensor([tokens], dtype=torch.int64)
    ids = torch.cat([inputs["input_ids"], more], dim=1)
    full = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in inputs:
        plain = torch.zeros_like(more, dtype=inputs["mm_token_type_ids"].dtype)
        full["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], plain], dim=1)
    return full


@torch.no_grad()
def fresh_pass(model: Any, inputs: dict[str, torch.Tensor], tokens: list[int]) -> Any:
    """Slow reference: the whole sequence through the model itself, with transformers' own cache."""
    return model(**extended(inputs, tokens), use_cache=True)


def assert_cache_is_fresh(runner: Runner, inputs: dict[str, torch.Tensor], new: list[int]) -> None:
    """All layers of the runner's cache equal a fresh prefill of what it has committed."""
    kept = runner.committed - inputs["input_ids"].shape[1]
    assert 0 <= kept <= len(new)
    fresh = fresh_pass(runner.model, inputs, new[:kept]).past_key_values
    assert len(fresh.layers) == len(runner.cache.layers)
    for mine, theirs in zip(runner.cache.layers, fresh.layers, strict=True):
        assert mine.length == runner.committed == theirs.keys.shape[-2]
        torch.testing.assert_close(mine.keys[..., : mine.length, :], theirs.keys, **CLOSE)
        torch.testing.assert_close(mine.values[..., : mine.length, :], theirs.values, **CLOSE)


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> list[Runner]:
    """The runners that a decoder makes: the target's first, then the draft's."""
    made: list[Runner] = []
    init = Runner.__init__

    def recorded(self: Runner, *arguments: Any) -> None:
        init(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Runner, "__init__", recorded)
    return made


@pytest.mark.parametrize("policy", ["static", "sage-paper:theta=0.001,wmin=3"])
@pytest.mark.parametrize(("family", "kind"), FAMILY_KINDS)
def test_the_compacted_caches_equal_a_fresh_prefill(
    family: str, kind: str, policy: str, runners: list[Runner]
) -> None:
    target, draft = build_pair(family)
    inputs = make_inputs(target, family, kind, length=10)
    decoder = SpeculativeDecoder(target, draft, policy)
    runners.clear()  # of the checks
    stream = decoder.stream(**inputs, max_new_tokens=40)
    new: list[int] = []
    accepted = 0
    for step in stream:
        new += step.tokens
        accepted += len(step.accepted)
        if step.index in (2, 5, 9):
            for runner in runners:
                assert_cache_is_fresh(runner, inputs, new)
    assert len(runners) == 2
    assert runners[0].committed == inputs["input_ids"].shape[1] + len(new) - 1
    assert accepted >= 3, "nothing was compacted"


@settings(max_examples=25)
@given(st.sampled_from(FAMILY_KINDS), trees(max_nodes=16), st.integers(0, 20), st.integers(0, 99))
def test_a_tree_pass_equals_plain_sequences(
    family_kind: tuple[str, str], tree: TokenTree, length: int, seed: int
) -> None:
    """Every node's logits are those of its own path, whatever else is in the tree."""
    family, kind = family_kind
    target, _ = build_pair(family)
    inputs = make_inputs(target, family, kind, length=length, seed=seed)
    runner = _prefilled(target, inputs)
    words = [FIRST_WORD + token for token in tree.tokens]
    root = VOCAB - 1
    logits, _ = runner.forward((root, *words), (0, *tree.depths), tree.visibility)
    for node in (-1, *tree.leaves()):
        path = [root, *(words[i] for i in tree.path(node))]
        plain = fresh_pass(target, inputs, path).logits[0, -len(path) :]
        rows = [0, *(i + 1 for i in tree.path(node))]
        torch.testing.assert_close(logits[rows], plain, atol=1e-4, rtol=1e-4)


@settings(max_examples=25)
@given(st.sampled_from(FAMILY_KINDS), trees(max_nodes=16), st.data())
def test_levels_passed_one_by_one_and_a_committed_path_behave_like_plain_text(
    family_kind: tuple[str, str], tree: TokenTree, data: st.DataObject
) -> None:
    """As a draft works: root, then level after level; then keep one path and go on from it."""
    family, kind = family_kind
    target, _ = build_pair(family)
    inputs = make_inputs(target, family, kind, length=5)
    runner = _prefilled(target, inputs)
    words = [FIRST_WORD + token for token in tree.tokens]
    root = VOCAB - 1
    runner.forward((root,), (0,), tree.visibility[:1, :1])
    order = sorted(range(len(tree)), key=lambda node: tree.depths[node])
    for level in range(1, tree.depth + 1):
        nodes = [node for node in order if tree.depths[node] == level]
        passed = [-1, *(node for node in order if tree.depths[node] <= level)]
        seen = tree.visibility[[n + 1 for n in nodes]][:, [n + 1 for n in passed]]
        runner.forward([words[n] for n in nodes], [level] * len(nodes), seen)
    node = data.draw(st.sampled_from([-1, *range(len(tree))]))
    columns = {node: column for column, node in enumerate([-1, *order])}
    runner.commit(sorted(columns[n] for n in (-1, *tree.path(node))))
    committed = [root, *(words[i] for i in tree.path(node))]
    assert_cache_is_fresh(runner, inputs, committed)
    after = [FIRST_WORD, FIRST_WORD + 1]
    logits, _ = runner.forward(after, (0, 1), TokenTree((0,), (-1,), (1.0,), (0,)).visibility)
    plain = fresh_pass(target, inputs, committed + after).logits[0, -2:]
    torch.testing.assert_close(logits, plain, atol=1e-4, rtol=1e-4)


def _prefilled(model: Any, inputs: dict[str, torch.Tensor], room: int = 40) -> Runner:
    runner = Runner(model)
    with torch.no_grad():
        runner.prefill(prepare(model, {**inputs, "max_new_tokens": 40}), room)
    return runner


@pytest.mark.parametrize("shared", [True, False])
@given(data=st.data())
def test_the_cache_alone_against_a_list_of_slots(shared: bool, data: st.DataObject) -> None:
    """Random writes and compactions, with too little room at first, so that it has to grow."""
    layers, heads, size = 3, 2, 4
    cache = TreeCache(layers, capacity=data.draw(st.integers(1, 12)), shared=shared)
    slots: list[int] = []  # each slot is known by the number that fills it
    committed = written = 0
    order = data.draw(st.permutations(range(layers)))  # layers of a model may be exchanged
    for _ in range(data.draw(st.integers(1, 8))):
        for _ in range(data.draw(st.integers(1, 3))):  # a draft passes level after level
            n = data.draw(st.integers(1, 6))
            numbers = list(range(written, written + n))
            written += n
            block = torch.tensor(numbers, dtype=torch.float32).view(1, 1, n, 1)
            for index in order:
                ones = torch.ones(1, heads, n, size) * (index + 1)
                keys, values = cache.layers[index].update(block * ones, -block * ones)
                assert keys.shape == values.shape == (1, heads, len(slots) + n, size)
            slots += numbers
        kept = sorted(data.draw(st.sets(st.sampled_from(range(committed, len(slots))))))
        cache.keep(committed, kept)
        slots = slots[:committed] + [slots[i] for i in kept]
        committed = len(slots)
        assert cache.get_seq_length() == cache.length == committed
        for index, layer in enumerate(cache.layers):
            found = layer.keys[0, 0, :committed, 0] / (index + 1)
            assert found.tolist() == [float(number) for number in slots]
            assert torch.equal(layer.keys[..., :committed, :], -layer.values[..., :committed, :])


def test_compaction_moves_the_tree_and_not_the_sequence() -> None:
    """Slots below the committed mark are neither read nor written: they keep their storage."""
    cache = TreeCache(1, capacity=64)
    layer = cache.layers[0]
    layer.update(torch.randn(1, 1, 20, 4), torch.randn(1, 1, 20, 4))
    storage = layer.keys.data_ptr()
    before = layer.keys[..., :10, :].clone()
    layer.keys[..., :10, :] = float("nan")
    cache.keep(10, [12, 15, 19])
    assert layer.keys.data_ptr() == storage
    assert layer.keys[..., :10, :].isnan().all()
    assert not layer.keys[..., 10:13, :].isnan().any()
    assert before.shape[-2] == 10 and cache.length == 13

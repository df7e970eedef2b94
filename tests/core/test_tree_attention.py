"""The tree attention kernel against its plain reference, and inside the families' own decoders.

On a machine without a GPU the kernel runs in Triton's interpreter, with one it is compiled.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import UnsupportedError
from sage_core.generation.prepare import prepare
from sage_core.runtime.attention import TREE_ATTENTION, TreeMask, additive, attending, pack, why_not
from sage_core.runtime.cuda.executor import CudaGraphBackend
from sage_core.runtime.runner import Runner
from sage_core.trees.tree import TokenTree
from tests.core import reference_attention as plain
from tests.core.test_tree import trees
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.oracle import reference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = (16, 24, 64, 80, 128) if DEVICE.type == "cpu" else (64, 128)
"""Of heads; each is compiled anew where kernels are compiled."""
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")


@dataclass(frozen=True)
class Case:
    """One call of the attention: shapes, and a seed for what is in them."""

    tree: TokenTree
    kv_heads: int
    group: int
    size: int
    committed: int
    behind: int
    """Slots of unwritten memory behind the tree."""
    splits: int
    seed: int


cases = st.builds(
    Case,
    tree=trees(max_nodes=63),
    kv_heads=st.sampled_from((1, 2)),
    group=st.sampled_from((1, 3, 7)),
    size=st.sampled_from(SIZES),
    committed=st.sampled_from((0, 1, 63, 64, 65, 200)),
    behind=st.sampled_from((0, 5)),
    splits=st.sampled_from((1, 3)),
    seed=st.integers(0, 9),
)


def masked(visible: np.ndarray, committed: int) -> TreeMask:
    words = torch.from_numpy(pack(visible)).to(DEVICE)
    return TreeMask(words, torch.tensor([committed], device=DEVICE))


def drawn(case: Case, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, and keys and values in a layout of their own with NaN behind the tree."""
    random = torch.Generator().manual_seed(case.seed)
    nodes = len(case.tree) + 1
    slots = case.committed + nodes
    query = torch.randn(1, case.kv_heads * case.group, nodes, case.size, generator=random)
    # (1, slots, heads, size) seen as (1, heads, slots, size): strides are not those of the shape.
    held = torch.full((2, 1, slots + case.behind, case.kv_heads, case.size), torch.nan)
    held[:, :, :slots] = torch.randn(held[:, :, :slots].shape, generator=random)
    key, value = held.to(DEVICE, dtype).transpose(2, 3)
    return query.to(DEVICE, dtype), key, value


def check(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    from sage_core.runtime.attention.triton_kernel import tree_attention

    query, key, value = drawn(case, dtype)
    mask = masked(case.tree.visibility, case.committed)
    expected = plain.tree_attention(query, key, value, mask, 0.2)
    got = tree_attention(query, key, value, mask, 0.2, splits=case.splits)
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


@needs_triton
@given(cases)
@settings(max_examples=10)
def test_the_kernel_is_the_reference_in_float32(case: Case) -> None:
    check(case, torch.float32, 1e-5 if DEVICE.type == "cpu" else 2e-5)


@needs_triton
@given(cases)
@settings(max_examples=4)
def test_the_kernel_is_the_reference_in_half_precision(case: Case) -> None:
    check(case, torch.bfloat16, 2e-2)
    check(case, torch.float16, 4e-3)


@given(trees(max_nodes=63), st.integers(0, 5), st.integers(0, 3))
@settings(max_examples=20)
def test_words_hold_the_visibility(tree: TokenTree, committed: int, behind: int) -> None:
    nodes = len(tree) + 1
    mask = masked(tree.visibility, committed)
    dense = additive(mask, committed + nodes + behind, torch.float32)[0, 0].cpu() == 0
    assert dense[:, :committed].all()
    np.testing.assert_array_equal(dense[:, committed : committed + nodes], tree.visibility)
    assert not dense[:, committed + nodes :].any()


def test_the_reference_is_pytorch_s_own_attention() -> None:
    case = Case(TokenTree((5, 6, 7), (-1, -1, 0), (1.0,) * 3, (0, 1, 0)), 2, 3, 16, 9, 0, 1, 0)
    query, key, value = drawn(case, torch.float32)
    mask = masked(case.tree.visibility, case.committed)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=additive(mask, key.shape[2], torch.float32),
        scale=0.2,
        enable_gqa=True,
    )
    got = plain.tree_attention(query, key, value, mask, 0.2)
    torch.testing.assert_close(got, expected.transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_a_tree_of_more_columns_than_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="65 tree columns do not fit"):
        pack(np.ones((3, 65), dtype=bool))


@pytest.mark.parametrize(
    ("words", "committed"),
    [
        (torch.zeros(2, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)),
        (torch.zeros(2, dtype=torch.int64), torch.zeros((), dtype=torch.int64)),
    ],
)
def test_a_mask_checks_itself(words: torch.Tensor, committed: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="a tree mask takes"):
        TreeMask(words, committed)


TREE = TokenTree((9, 10, 11, 12, 13), (-1, -1, 0, 0, 2), (0.5,) * 5, (0, 1, 0, 1, 0))


@needs_triton
@pytest.mark.parametrize(("family", "kind"), [(name, s.kinds[-1]) for name, s in FAMILIES.items()])
def test_a_pass_through_a_decoder_is_that_of_the_additive_mask(family: str, kind: str) -> None:
    assert why_not(DEVICE) == ""
    model = copy.deepcopy(build_pair(family).target).to(DEVICE)
    inputs = {k: v.to(DEVICE) for k, v in make_inputs(model, family, kind, length=10).items()}
    runner = Runner(model)
    prepared = prepare(model, inputs | {"max_new_tokens": 8})
    runner.prefill(prepared, room=16)
    tokens, depths = (8, *TREE.tokens), (0, *TREE.depths)
    _, expected = runner.forward(tokens, depths, TREE.visibility)
    runner.commit([])

    implementation = runner.decoder.config._attn_implementation
    start = runner.committed + prepared.position_offset
    mask = masked(TREE.visibility, runner.committed)
    with torch.inference_mode(), attending(runner.decoder.config, mask) as arguments:
        got = runner.decoder(
            input_ids=torch.tensor([tokens], device=DEVICE),
            position_ids=torch.tensor([[start + d for d in depths]], device=DEVICE),
            past_key_values=runner.cache,
            use_cache=True,
            **arguments,
        ).last_hidden_state[0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert runner.decoder.config._attn_implementation == implementation != TREE_ATTENTION


@needs_triton
def test_a_static_pass_takes_the_kernel() -> None:
    model = copy.deepcopy(build_pair("qwen2_5_vl").target).to(DEVICE)
    made = CudaGraphBackend(kernel=True)
    runners = [Runner(model, made.executor(model)), Runner(model)]
    for runner in runners:
        given = make_inputs(model, "qwen2_5_vl", "image", length=10)
        inputs = {name: value.to(DEVICE) for name, value in given.items()}
        runner.prefill(prepare(model, {**inputs, "max_new_tokens": 8}), room=16)
    (got, _), (expected, _) = (
        runner.forward((8, *TREE.tokens), (0, *TREE.depths), TREE.visibility) for runner in runners
    )
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert [(record.rows, record.attention) for record in made.records] == [(8, "kernel")]


@needs_triton
def test_a_text_through_the_kernel_is_the_target_s_own() -> None:
    family = "qwen2_5_vl"
    pair = (copy.deepcopy(model).to(DEVICE) for model in build_pair(family))
    decoder = SpeculativeDecoder(*pair, policy="chain", backend=CudaGraphBackend())
    made = make_inputs(decoder.target, family, "image", length=10)
    inputs = {name: value.to(DEVICE) for name, value in made.items()}
    expected = reference(decoder.target, inputs, max_new_tokens=7)
    output = decoder.generate(**inputs, max_new_tokens=7)
    assert output.sequences.tolist() == expected.tolist()


@needs_triton
@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu_that_is_not_there() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.core.compile_kernel"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[0]) > 0, "products of 16 bits belong on tensor cores"


def test_a_decoder_that_drops_the_tree_is_told_so() -> None:
    from sage_core.runtime.attention.tree_attention import tree_attention_forward

    query = torch.zeros(1, 2, 3, 16)
    words = torch.zeros(1, 1, 3, 1, dtype=torch.int64)
    with pytest.raises(UnsupportedError, match="Linear is given no tree"):
        tree_attention_forward(torch.nn.Linear(1, 1), query, query, query, words)


def test_without_a_tree_it_is_pytorch_s_own_attention() -> None:
    from sage_core.runtime.attention.tree_attention import tree_attention_forward

    query, key, value = torch.randn(3, 1, 2, 5, 16, generator=torch.Generator().manual_seed(0))
    got, _ = tree_attention_forward(
        torch.nn.Identity(), query, key, value, None, 0.25, is_causal=True
    )
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.25
    )
    torch.testing.assert_close(got, expected.transpose(1, 2))

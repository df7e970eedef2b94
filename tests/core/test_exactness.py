"""Output equals `generate(do_sample=False)` token by token: policies, families, media, lengths."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from sage_core.engine.decoder import SpeculativeDecoder
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.oracle import check_steps, first_mismatch, reference

POLICIES = ("autoregressive", "chain", "static", "sage")
VARIANTS = (
    "chain:length=1",
    "static:tree=FILE",
    "static:nodes=7",
    "sage-paper",
    "sage-paper:dmin=1,dmax=12,wmin=1,wmax=6,nmax=96,theta=0.001,history=2",
    "sage-paper:lookahead=false,scale_width=false,parent=cumulative,nmax=10",
    "eagle2",
    "optimal-static:nodes=40,depth=8",
    "spec-llava",
    "spec-llava:grow=0.01,prune=0.001,k=3,depth=5,nodes=9",
    "eagle2:depth=4,beam=2,k=3,nodes=5",
)
ODD_TREE = "0 1 2 3 4 5 6 7 07 070 0701 07010 10 100 1000 10000 100000 1000000 50 52"


@pytest.fixture(scope="session")
def tree_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lopsided tree: wide at the root, with a deep path on unlikely ranks."""
    file = tmp_path_factory.mktemp("trees") / "odd.txt"
    file.write_text(ODD_TREE, encoding="utf-8")
    return file


def assert_exact(
    target: Any, draft: Any, policy: str, inputs: dict[str, Any], **options: Any
) -> Any:
    """The engine's output is the oracle's, and its records agree with it. Returns the output."""
    expected = reference(target, inputs, **options)
    output = SpeculativeDecoder(target, draft, policy).generate(**inputs, **options)
    difference = first_mismatch(target, inputs, expected, output.sequences, **options)
    assert difference is None, f"{policy}: {difference}"
    assert output.sequences.dtype == torch.int64
    prompt = inputs["input_ids"].shape[1]
    check_steps(output.steps, output.sequences[0, prompt:].tolist())
    assert output.stats.new_tokens == output.sequences.shape[1] - prompt
    return output


FAMILY_KINDS = [(family, kind) for family, spec in FAMILIES.items() for kind in spec.kinds]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("family", "kind"), FAMILY_KINDS)
def test_every_policy_on_every_family_and_kind_of_input(
    family: str, kind: str, policy: str
) -> None:
    target, draft = build_pair(family)
    inputs = make_inputs(target, family, kind, length=9)
    output = assert_exact(target, draft, policy, inputs, max_new_tokens=32)
    if policy in ("static", "sage"):
        assert output.stats.mean_accepted > 0.2, "a test in which nothing is accepted shows little"


@pytest.mark.parametrize("policy", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_policy_s_options(family: str, policy: str, tree_file: Path) -> None:
    target, draft = build_pair(family)
    inputs = make_inputs(target, family, FAMILIES[family].kinds[-1], length=9)
    policy = policy.replace("FILE", str(tree_file))
    assert_exact(target, draft, policy, inputs, max_new_tokens=32)


@pytest.mark.parametrize("new", [1, 2, 7, 40])
@pytest.mark.parametrize("length", [0, 1, 30, 150])
@pytest.mark.parametrize("family", FAMILIES)
def test_lengths_of_prompt_and_text(family: str, length: int, new: int) -> None:
    target, draft = build_pair(family)
    kinds = itertools.cycle(FAMILIES[family].kinds)
    kind = next(itertools.islice(kinds, length + new, None))
    inputs = make_inputs(target, family, kind, length=length)
    for policy in ("sage", "chain"):
        output = assert_exact(target, draft, policy, inputs, max_new_tokens=new)
        assert output.stats.new_tokens == new


def test_one_model_serves_prompts_of_all_kinds_in_turn() -> None:
    """Positions left over from a prompt with pictures must not leak into the next prompt."""
    target, draft = build_pair("qwen2_5_vl")
    for kind in ("video", "text", "mixed", "text", "image", "images"):
        inputs = make_inputs(target, "qwen2_5_vl", kind, length=8)
        assert_exact(target, draft, "sage", inputs, max_new_tokens=20)


def test_decoders_and_streams_do_not_disturb_each_other() -> None:
    """Two texts decoded step by step in turn, on the same models."""
    target, draft = build_pair("qwen3_vl")
    prompts = [make_inputs(target, "qwen3_vl", kind, length=8) for kind in ("video", "text")]
    decoder = SpeculativeDecoder(target, draft, "sage")
    streams = [decoder.stream(**inputs, max_new_tokens=24) for inputs in prompts]
    told: list[list[int]] = [[], []]
    running = [0, 1]
    while running:
        for i in list(running):
            step = next(streams[i])
            told[i] += step.tokens
            if step.finished:
                running.remove(i)
    for inputs, tokens in zip(prompts, told, strict=True):
        expected = reference(target, inputs, max_new_tokens=24)
        assert tokens == expected[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("policy", ["autoregressive", "chain", "static", "sage"])
def test_a_long_text(policy: str) -> None:
    """Hundreds of steps: positions, caches and the reserved room do not drift."""
    target, draft = build_pair("qwen2_vl")
    inputs = make_inputs(target, "qwen2_vl", "mixed", length=20)
    assert_exact(target, draft, policy, inputs, max_new_tokens=200)

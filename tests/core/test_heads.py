"""Drafting with heads: the text is the target's own, for every kind, family and policy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sage_core
from sage_core.drafts.head.checkpoint import placed
from sage_core.drafts.head.drafter import HeadDrafter
from sage_core.drafts.head.init import new_head
from sage_core.drafts.pruning.options import Pruning
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import ModelError
from sage_core.generation.prepare import prepare
from sage_core.runtime.backend import EagerBackend
from sage_core.runtime.cpu.executor import CpuBackend
from sage_core.runtime.cuda.executor import CudaGraphBackend
from sage_core.runtime.passes import run_passes
from sage_core.runtime.runner import Runner
from sage_core.trees.pass_costs import Costs
from tests.core.test_exactness import assert_exact
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.heads import KINDS, LATEST, head_for

POLICIES = (
    *("autoregressive", "chain", "static", "sage", "sage-paper"),
    *("eagle2", "optimal-static", "spec-llava"),
)
COSTS = Costs(((1, 1.0), (64, 1.2)), ((1, 0.05), (12, 0.06)))
"""Costs with which the default policy drafts."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", LATEST)
def test_every_kind_on_every_family(family: str, kind: str) -> None:
    target, head = build_pair(family).target, head_for(family, kind)
    for media in FAMILIES[family].kinds[-2:]:
        inputs = make_inputs(target, family, media, length=9)
        output = assert_exact(target, head, "static", inputs, max_new_tokens=16)
        visual, seen = output.stats.visual_tokens, output.stats.draft_visual_tokens
        if kind == "head":
            assert seen == visual
        elif kind == "text" or not visual:
            assert seen == 0
        else:  # a gate may select the text alone, and small pictures cannot be made smaller
            assert (seen > 0 or kind == "select") and seen <= visual


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["head", "weighted", "vispec"])
def test_every_policy(kind: str, policy: str) -> None:
    target, head = build_pair("qwen2_5_vl").target, head_for("qwen2_5_vl", kind)
    inputs = make_inputs(target, "qwen2_5_vl", "mixed", length=9)
    output = assert_exact(target, head, policy, inputs, max_new_tokens=32)
    assert output.stats.draft_passes == 0 or policy != "autoregressive"
    expected = SpeculativeDecoder(target, head, policy, costs=COSTS).generate(
        **inputs, max_new_tokens=32
    )
    assert expected.sequences.tolist() == output.sequences.tolist()
    if policy not in ("autoregressive", "chain"):
        assert expected.stats.mean_accepted > 0.1, "a test in which nothing is accepted"


SETTINGS: dict[str, dict[str, Any]] = {
    "processors": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "min_new_tokens": 5},
    "sampled": {"do_sample": True, "temperature": 0.8, "top_k": 30},
    "both": {"do_sample": True, "top_p": 0.9, "repetition_penalty": 1.2},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", ["head", "concat", "vispec"])
def test_sampled_and_with_processors(kind: str, settings: str) -> None:
    target, head = build_pair("qwen3_vl").target, head_for("qwen3_vl", kind)
    inputs = make_inputs(target, "qwen3_vl", "mixed", length=9)
    options = {**SETTINGS[settings], "max_new_tokens": 24}
    torch.manual_seed(3)
    wanted = target.generate(**inputs, **options)
    decoder = SpeculativeDecoder(target, head, "static")
    output = decoder.generate(**inputs, seed=3, **options)
    assert output.sequences.tolist() == wanted.tolist()


def test_candidates_may_be_drawn() -> None:
    """Another text than `generate`'s, with the same odds; and the same one again."""
    target, head = build_pair("llama").target, head_for("llama", "head")
    inputs = make_inputs(target, "llama", "text", length=9)
    decoder = SpeculativeDecoder(target, head, "static", candidates="drawn")
    texts = [
        decoder.generate(**inputs, do_sample=True, seed=1, max_new_tokens=24).sequences.tolist()
        for _ in range(2)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("length", [0, 1, 30])
@pytest.mark.parametrize("new", [1, 2, 20])
def test_lengths_of_prompt_and_text(length: int, new: int) -> None:
    for family, media in (("llama", "text"), ("llava", "image")):
        target = build_pair(family).target
        inputs = make_inputs(target, family, media, length=length)
        assert_exact(target, head_for(family, "head"), "static", inputs, max_new_tokens=new)
        assert_exact(target, head_for(family, "vispec"), "chain", inputs, max_new_tokens=new)


def test_a_lookup_and_captured_passes_beside_a_head() -> None:
    target, head = build_pair("llama").target, head_for("llama", "head")
    inputs = make_inputs(target, "llama", "text", length=20)
    wanted = target.generate(**inputs, do_sample=False, max_new_tokens=40).tolist()
    ways = (
        {"lookup": "ngram"},
        {"backend": CudaGraphBackend(kernel=False)},
        {"backend": EagerBackend()},
    )
    for options in ways:
        decoder = SpeculativeDecoder(target, head, "static", **options)
        assert decoder.generate(**inputs, max_new_tokens=40).sequences.tolist() == wanted


def test_a_head_with_a_reduced_vocabulary() -> None:
    """The target's output head is the draft's: its rows are chosen from, and nothing else is."""
    target, head = build_pair("llama").target, head_for("llama", "head")
    inputs = make_inputs(target, "llama", "text", length=20)
    for settings in ({}, {"repetition_penalty": 1.2}):
        wanted = target.generate(**inputs, do_sample=False, max_new_tokens=24, **settings)
        output = SpeculativeDecoder(
            target, head, "static", draft_vocab=list(range(20, 120))
        ).generate(**inputs, max_new_tokens=24, **settings)
        assert output.sequences.tolist() == wanted.tolist()
        drafted = {token for step in output.steps for token in step.tree.tokens}
        assert drafted and drafted <= {*range(20, 120), 2}


def test_a_pruned_prompt() -> None:
    """The share that is asked for is left out before the head compresses; by default nothing."""
    target, head = build_pair("qwen2_5_vl").target, head_for("qwen2_5_vl", "pool")
    inputs = make_inputs(target, "qwen2_5_vl", "video", length=9)
    wanted = target.generate(**inputs, do_sample=False, max_new_tokens=16).tolist()
    seen = []
    for pruning in (None, Pruning(least=0), Pruning(0.5, "uniform")):
        output = SpeculativeDecoder(target, head, "static", pruning).generate(
            **inputs, max_new_tokens=16
        )
        assert output.sequences.tolist() == wanted
        seen.append(output.stats.draft_visual_tokens)
    assert seen == [3, 3, 2] and output.stats.visual_tokens == 8


@pytest.mark.parametrize("make", [EagerBackend(), CpuBackend()], ids=["plain", "packed"])
@pytest.mark.parametrize(
    ("family", "kind"), [("qwen2_5_vl", "vispec"), ("qwen3_vl", "head"), ("llava", "weighted")]
)
def test_several_texts_at_once(family: str, kind: str, make: Any) -> None:
    """Each drafts with its own features, as it would alone; passes are shared."""
    target, head = build_pair(family).target, head_for(family, kind)
    media = (("image", 9), ("text", 5), ("image", 12))
    prompts = [make_inputs(target, family, medium, length=length) for medium, length in media]
    decoder = SpeculativeDecoder(target, head, "static", backend=make)
    passes: list[int] = []
    handle = head.decoder.register_forward_hook(lambda *_: passes.append(1))
    outputs = decoder.generate_batch(prompts, max_new_tokens=20)
    handle.remove()
    # Prompts are read one by one.
    drafted = [sum(step.draft_passes for step in output.steps) for output in outputs]
    assert len(passes) <= len(prompts) + max(drafted) + 6 < len(prompts) + sum(drafted)
    for inputs, output in zip(prompts, outputs, strict=True):
        wanted = target.generate(**inputs, do_sample=False, max_new_tokens=20)
        assert output.sequences.tolist() == wanted.tolist()
        alone = decoder.generate(**inputs, max_new_tokens=20)
        trees, wanted_trees = ([step.tree.tokens for step in o.steps] for o in (output, alone))
        assert trees == wanted_trees


def test_custom_generate_with_a_head() -> None:
    target, head = build_pair("qwen2_5_vl").target, head_for("qwen2_5_vl", "weighted")
    inputs = make_inputs(target, "qwen2_5_vl", "image", length=9)
    options = {"do_sample": False, "max_new_tokens": 16}
    got = target.generate(
        **inputs, **options, custom_generate=sage_core.custom_generate, draft_model=head
    )
    assert got.tolist() == target.generate(**inputs, **options).tolist()


def test_timed_passes_leave_no_trace() -> None:
    target, head = build_pair("llava").target, head_for("llava", "head")
    inputs = make_inputs(target, "llava", "image", length=9)
    runner = Runner(target)
    from sage_core.drafts.pruning.draft_prompt import DraftPrompt

    prepared = prepare(target, {**inputs, "max_new_tokens": 4})
    sight = DraftPrompt(Pruning(method="none"), target.config, prepared)
    drafter = HeadDrafter(head, runner, prepared, 32, sight)
    assert not drafter.started
    prompt = runner.prefill(prepared, 32, features=True)
    run_passes(drafter.prefill(20, prompt))
    assert drafter.started and drafter.visual_tokens == 16
    held = drafter._runner.committed
    assert held == prepared.prompt_tokens - 1
    for rows in (1, 8, 3):
        run_passes(drafter.time_pass(rows, 10, -1))
    drafter.discard_timed(3)
    assert drafter._runner.committed == drafter._runner.cache.length == held
    assert not target.get_decoder()._forward_hooks


def test_target_and_head_are_unchanged() -> None:
    """Nothing is hung on either, and neither counts the other's weights as its own."""
    target, head = build_pair("qwen2_5_vl").target, head_for("qwen2_5_vl", "vispec")
    before = ({**vars(target.get_decoder())}, {**vars(head)}, set(head.state_dict()))
    inputs = make_inputs(target, "qwen2_5_vl", "image", length=9)
    SpeculativeDecoder(target, head, "static").generate(**inputs, max_new_tokens=8)
    assert ({**vars(target.get_decoder())}, {**vars(head)}, set(head.state_dict())) == before
    own = {weight.data_ptr() for weight in head.parameters()}
    assert not own & {weight.data_ptr() for weight in target.parameters()}
    assert not any("embed_tokens" in name or "lm_head" in name for name in head.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_head_is_a_copy_of_the_last_layer(family: str) -> None:
    target = build_pair(family).target
    head, decoder = head_for(family, "head"), target.get_decoder()
    assert type(head.decoder) is type(decoder)
    for ours, theirs in (
        (head.decoder.layers[0], decoder.layers[-1]),
        (head.decoder.norm, decoder.norm),
    ):
        for name, weight in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], weight)
    rows = torch.randn(1, 5, head.config.hidden_size)
    wanted = (head.feature_norm(rows) + head.embed_norm(2 * rows)) / 2
    torch.testing.assert_close(head.inputs(rows, 2 * rows), wanted)


def test_heads_of_other_targets_are_refused() -> None:
    inputs = make_inputs(build_pair("llava").target, "llava", "image", length=9)
    for family, seed in (("qwen2_vl", 0), ("llava", 1)):
        target = build_pair(family, seed).target
        with pytest.raises(ModelError, match="tiny/llava"):
            SpeculativeDecoder(target, head_for("llava", "head"), "static").generate(**inputs)


def test_a_head_in_another_dtype_is_refused() -> None:
    target = build_pair("llava").target
    head = new_head(target, name="x").to(torch.bfloat16)
    with pytest.raises(ModelError, match="placed"):
        SpeculativeDecoder(target, head)
    assert placed(head, target).dtype == target.dtype
    SpeculativeDecoder(target, head)

"""Batches: each text is the target's own, whatever the others are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sage_core
import sage_core.engine.batching.scheduler
from sage_core.engine.batching.scheduler import BatchScheduler
from sage_core.engine.costs.store import CostStore
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import InputError, OptionError, UnsupportedError
from sage_core.generation.prepare import prepare
from sage_core.runtime.cpu.executor import CpuBackend
from sage_core.runtime.ragged_batch import ragged_attention_forward, run_together
from sage_core.runtime.runner import Runner
from sage_core.runtime.tree_runner import PassRequest
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policies.sage.policy import UNKNOWN
from sage_core.trees.tree import TokenTree
from tests.core.test_tree import trees
from tests.tiny import FAMILIES, build_pair, make_inputs, wrong_draft
from tests.tiny.families import FIRST_WORD, VOCAB
from tests.tiny.oracle import check_steps, first_mismatch, reference

EXAMPLES = Path(__file__).parents[2] / "examples"
POLICIES = (
    "autoregressive",
    "chain",
    "static",
    "optimal-static:nodes=20,depth=5",
    "eagle2:depth=4,beam=2,k=3,nodes=9",
    "spec-llava",
    "sage-paper:theta=0.001,wmin=2",
    "sage",
)
LENGTHS = (0, 30, 5, 90, 12)
LIMITS = (24, 1, 40, 9, 25)
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
SAMPLED = {"do_sample": True, "temperature": 0.9, "top_k": 20}


def rows(target: Any, family: str) -> list[dict[str, Any]]:
    """Prompts of all kinds, with lengths and limits of their own."""
    kinds = FAMILIES[family].kinds
    return [
        {
            **make_inputs(target, family, kinds[i % len(kinds)], length=length, seed=i),
            "max_new_tokens": limit,
        }
        for i, (length, limit) in enumerate(zip(LENGTHS, LIMITS, strict=True))
    ]


def assert_each_is_exact(target: Any, outputs: list[Any], given: list[dict[str, Any]]) -> None:
    assert len(outputs) == len(given)
    for output, inputs in zip(outputs, given, strict=True):
        expected = reference(target, inputs)
        assert first_mismatch(target, inputs, expected, output.sequences) is None
        check_steps(output.steps, output.sequences[0, inputs["input_ids"].shape[1] :].tolist())


CASES = [(family, policy) for family in ("qwen2_5_vl", "llava_onevision") for policy in POLICIES]
CASES += [
    (family, "sage") for family in FAMILIES if family not in ("qwen2_5_vl", "llava_onevision")
]


@pytest.mark.parametrize(("family", "policy"), CASES)
def test_every_text_is_the_target_s_own(family: str, policy: str) -> None:
    target, draft = build_pair(family)
    given = rows(target, family)
    decoder = SpeculativeDecoder(target, draft, policy, costs=UNKNOWN)
    outputs = decoder.generate_batch(given, width=3)
    assert_each_is_exact(target, outputs, given)
    alone = [decoder.generate(**inputs) for inputs in given]
    assert [o.stats.steps for o in outputs] == [o.stats.steps for o in alone]
    assert [o.finish_reason for o in outputs] == [o.finish_reason for o in alone]


@pytest.mark.parametrize("width", [1, 2, 5, None])
def test_every_width(width: int | None) -> None:
    target, draft = build_pair("qwen2_vl")
    given = rows(target, "qwen2_vl")
    outputs = SpeculativeDecoder(target, draft, "static").generate_batch(given, width)
    assert_each_is_exact(target, outputs, given)


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "penalties of their own": [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {},
        {"min_new_tokens": 5, "eos_token_id": [2, 9]},
        {"suppress_tokens": [20, 21, 22]},
    ],
    "ends in the middle": [{"eos_token_id": list(range(token, token + 60))} for token in
                           (8, 20, 40, 60, 80)],
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_texts_with_different_rules(name: str) -> None:
    target, draft = build_pair("qwen3_vl")
    given = [{**r, **o} for r, o in zip(rows(target, "qwen3_vl"), OPTIONS[name], strict=True)]
    outputs = SpeculativeDecoder(target, draft, "static").generate_batch(given, 4)
    assert_each_is_exact(target, outputs, given)


@pytest.mark.parametrize("candidates", ["topk", "drawn"])
def test_sampled_texts_are_those_of_their_seed(candidates: str) -> None:
    target, draft = build_pair("llava")
    decoder = SpeculativeDecoder(target, draft, "static", candidates=candidates)
    given = [{**inputs, **SAMPLED, "seed": i} for i, inputs in enumerate(rows(target, "llava"))]
    outputs = decoder.generate_batch(given, 3)
    for output, inputs in zip(outputs, given, strict=True):
        assert torch.equal(output.sequences, decoder.generate(**inputs).sequences)
        if candidates == "topk":
            torch.manual_seed(inputs["seed"])
            plain = {name: value for name, value in inputs.items() if name != "seed"}
            assert torch.equal(output.sequences, target.generate(**plain))


@pytest.mark.parametrize(
    "drafts",
    [{"draft": "ngram"}, {"lookup": "ngram"}, {"draft": None, "policy": "autoregressive"}],
    ids=str,
)
def test_other_drafts(drafts: dict[str, Any]) -> None:
    target, draft = build_pair("qwen2")
    given = rows(target, "qwen2")
    drafts = {"draft": draft, "policy": "static", **drafts}
    outputs = SpeculativeDecoder(target, **drafts).generate_batch(given, 3)
    assert_each_is_exact(target, outputs, given)


def test_a_wrong_draft_keeps_exactness() -> None:
    target, _ = build_pair("llama")
    given = rows(target, "llama")
    outputs = SpeculativeDecoder(target, wrong_draft(target), "static").generate_batch(given)
    assert_each_is_exact(target, outputs, given)


class Passes:
    """Counts the passes of a model's decoder and how many tokens each had."""

    def __init__(self, model: Any) -> None:
        self._decoder = model.get_decoder()
        self.tokens: list[int] = []

    def __enter__(self) -> Passes:
        def count(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
            given = kwargs.get("input_ids")
            self.tokens.append((kwargs["inputs_embeds"] if given is None else given).shape[1])

        self._handle = self._decoder.register_forward_pre_hook(count, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


@pytest.mark.parametrize(("attention", "shared"), [("sdpa", True), ("eager", False)])
def test_texts_share_passes_where_attention_can_be_split(attention: str, shared: bool) -> None:
    """Equal rows stay in step: four take the passes of one, and four prompts."""
    target, draft = (copy.deepcopy(model) for model in build_pair("qwen2_5_vl"))
    for model in (target, draft):
        model.get_decoder().config._attn_implementation = attention
    inputs = {**make_inputs(target, "qwen2_5_vl", "image"), "max_new_tokens": 20}
    decoder = SpeculativeDecoder(target, draft, "static")
    counted = []
    for model in (target, draft):
        with Passes(model) as one:
            decoder.generate(**inputs)
        with Passes(model) as four:
            outputs = decoder.generate_batch([inputs] * 4)
        counted.append((len(one.tokens), len(four.tokens)))
        if shared:
            assert four.tokens[4:] == [4 * n for n in one.tokens[1:]]
    times = 1 if shared else 4
    assert [four - 4 for _, four in counted] == [times * (one - 1) for one, _ in counted]
    assert_each_is_exact(target, outputs, [inputs] * 4)
    assert target.get_decoder().config._attn_implementation == attention


def test_a_slot_is_taken_as_soon_as_it_is_free() -> None:
    """The text behind a short one does not wait for a long one."""
    target, draft = build_pair("qwen2")
    inputs = make_inputs(target, "qwen2", "text")
    scheduler = BatchScheduler(target, 2)
    decoder = SpeculativeDecoder(target, draft, "chain").attached(scheduler)
    limits = (60, 3, 3, 3)
    jobs = (lambda n=n: decoder.stream(**inputs, max_new_tokens=n).passes() for n in limits)
    assert [outcome.number for outcome in scheduler.run(jobs)] == [1, 2, 3, 0]


@settings(max_examples=20)
@given(
    st.sampled_from(["llava", "qwen2_5_vl", "qwen3_vl_moe", "llama"]),
    st.lists(st.tuples(trees(max_nodes=12), st.integers(0, 25)), min_size=2, max_size=4),
    st.data(),
)
def test_a_ragged_pass_equals_single_passes(
    family: str, drafted: list[tuple[TokenTree, int]], data: st.DataObject
) -> None:
    """Logits, hidden states and caches; then one path is kept in each row, and once more."""
    target, _ = build_pair(family)
    kinds = FAMILIES[family].kinds
    pairs = []
    for number, (_, length) in enumerate(drafted):
        inputs = make_inputs(target, family, kinds[number % len(kinds)], length, seed=number)
        prepared = prepare(target, {**inputs, "max_new_tokens": 9})
        pairs.append((Runner(target), Runner(target, CpuBackend().executor(target))))
        for runner in pairs[-1]:
            runner.prefill(prepared, room=data.draw(st.sampled_from([0, 3, 60])))
    for _ in range(2):
        last = data.draw(st.sampled_from([0, 1]))
        requests, expected = [], []
        for (alone, row), (tree, _) in zip(pairs, drafted, strict=True):
            tokens = [VOCAB - 1, *(FIRST_WORD + token for token in tree.tokens)]
            asked = (tokens, [0, *tree.depths], tree.visibility, last)
            requests.append(PassRequest(row, *asked))
            expected.append(alone.forward(*asked))
        for got, plain in zip(run_together(requests), expected, strict=True):
            for mine, theirs in zip(got, plain, strict=True):
                torch.testing.assert_close(mine, theirs, **CLOSE)
        for (alone, row), (tree, _) in zip(pairs, drafted, strict=True):
            node = data.draw(st.sampled_from([-1, *range(len(tree))]))
            for runner in (alone, row):
                runner.commit([0, *(n + 1 for n in tree.path(node))])
            for mine, theirs in zip(row.cache.layers, alone.cache.layers, strict=True):
                assert mine.length == theirs.length == alone.committed
                kept = slice(0, mine.length)
                torch.testing.assert_close(
                    mine.keys[..., kept, :], theirs.keys[..., kept, :], **CLOSE
                )


def test_a_decoder_that_drops_arguments_is_refused() -> None:
    states = torch.zeros(1, 1, 1, 4)
    with pytest.raises(UnsupportedError, match="one by one"):
        ragged_attention_forward(torch.nn.Module(), states, states, states, None)


@pytest.mark.real_costs
def test_costs_are_those_of_shared_passes() -> None:
    target, draft = build_pair("qwen2")
    book = CostStore()
    decoder = SpeculativeDecoder(target, draft, "sage", costs=book)
    given = [{**inputs, "max_new_tokens": 40} for inputs in rows(target, "qwen2")]
    outputs = decoder.generate_batch(given, 4)
    assert_each_is_exact(target, outputs, given)
    (place,) = book._new_costs
    assert "batches of 4" in place
    known: Costs = book._new_costs[place]
    decoder.generate_batch(given, 4)
    (again,) = book._new_costs.values()
    for mine, theirs in ((again.target, known.target), (again.draft, known.draft)):
        assert [n for n, _ in mine] == [n for n, _ in theirs]
        assert [s for _, s in mine] == pytest.approx([s for _, s in theirs])
    assert again.step > 0


def test_captions_of_several_files_at_once() -> None:
    """The bundled pair: pictures and a clip, one file that is not there, in the order they end."""
    pipeline = sage_core.load()
    files = [str(EXAMPLES / name) for name in ("shapes.png", "none.png", "chart.png", "moving.mp4")]
    outcomes = {o.number: o for o in pipeline.captions(files, batch=3, max_new_tokens=20)}
    assert isinstance(outcomes.pop(1).error, InputError)
    del files[1]
    alone = pipeline.caption(files, max_new_tokens=20)
    found = [outcomes[number].get() for number in sorted(outcomes)]
    assert [result.tokens for result in found] == [result.tokens for result in alone]
    assert [result.text for result in found] == [result.text for result in alone]
    again = pipeline.caption(files, batch=2, max_new_tokens=20)
    assert [result.tokens for result in again] == [result.tokens for result in alone]
    with pytest.raises(InputError, match="none"):
        pipeline.caption([*files, "none.png"], batch=2, max_new_tokens=20)
    with pytest.raises(OptionError, match="batch"):
        pipeline.caption(files, batch="some")
    assert pipeline.pays >= 1

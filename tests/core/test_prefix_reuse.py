"""Prefix reuse: only new tokens are read, and the output is the one of `generate`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sage_core.drafts.pruning.options import Pruning
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.prefix_reuse import PrefixReuse
from tests.tiny import FAMILIES, build_pair, make_inputs, perfect_draft
from tests.tiny.families import FIRST_WORD, VOCAB
from tests.tiny.oracle import first_mismatch, reference

POLICIES = ("autoregressive", "chain", "static", "sage")
NEW = 14


def going_on(inputs: dict[str, Any], ids: torch.Tensor, words: int, seed: int) -> dict[str, Any]:
    """The inputs with ``ids`` and then further words in place of the prompt."""
    generator = torch.Generator().manual_seed(seed)
    more = torch.randint(FIRST_WORD, VOCAB, (1, words), generator=generator)
    whole = torch.cat([ids, more], dim=1)
    longer = inputs | {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    if "mm_token_type_ids" in inputs:
        types = torch.zeros_like(whole, dtype=torch.int32)
        types[:, : inputs["input_ids"].shape[1]] = inputs["mm_token_type_ids"]
        longer["mm_token_type_ids"] = types
    return longer


def turn(
    decoder: SpeculativeDecoder, reuse: PrefixReuse, inputs: dict[str, Any], **options: Any
) -> Any:
    """One text under the same reading, compared with the oracle on the whole of it."""
    stream = decoder.stream(reuse=reuse, **inputs, **options)
    for _ in stream:
        pass
    expected = reference(decoder.target, inputs, **options)
    found = stream.output().sequences
    assert first_mismatch(decoder.target, inputs, expected, found, **options) is None
    return found


CASES = [  # every family with every policy, and every kind of input
    (family, spec.kinds[(number + place) % len(spec.kinds)], POLICIES[(number + place) % 4])
    for number, (family, spec) in enumerate(FAMILIES.items())
    for place in range(max(4, len(spec.kinds)))
]


@pytest.mark.parametrize(("family", "kind", "policy"), CASES)
def test_every_turn_is_the_target_s_own(family: str, kind: str, policy: str) -> None:
    target, draft = build_pair(family)
    decoder = SpeculativeDecoder(target, draft, policy)
    reuse = PrefixReuse()
    inputs = first = make_inputs(target, family, kind, length=9)
    held = 0
    for number, words in enumerate((7, 1, 30)):
        ids = turn(decoder, reuse, inputs, max_new_tokens=NEW)
        assert reuse.reused == held
        held = ids.shape[1] - 1
        inputs = going_on(first, ids, words, seed=number)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_draft_reuses_the_same_prefix(family: str) -> None:
    """A draft that is the target's twin is right in every turn, if it has read the same."""
    target, _ = build_pair(family)
    decoder = SpeculativeDecoder(target, perfect_draft(target), "chain:length=4")
    reuse = PrefixReuse()
    inputs = first = make_inputs(target, family, FAMILIES[family].kinds[-1], length=9)
    for number in range(3):
        stream = decoder.stream(reuse=reuse, **inputs, max_new_tokens=16)
        accepted = [len(step.accepted) for step in stream]
        assert accepted == [0, 4, 4, 4]
        inputs = going_on(first, stream.output().sequences, 6, seed=number)


def test_ends_and_penalties_are_those_of_the_whole_text() -> None:
    """Processors see the whole history; texts end inside paths, at once, and at the limit."""
    target, draft = build_pair("qwen2_5_vl")
    first = make_inputs(target, "qwen2_5_vl", "mixed", length=9)
    plain = reference(target, first, max_new_tokens=40)[0, first["input_ids"].shape[1] :].tolist()
    reuse, inputs = PrefixReuse(), first
    decoder = SpeculativeDecoder(target, draft, "sage")
    for number, end in enumerate((plain[6], plain[9], plain[2])):
        options = {"eos_token_id": end, "repetition_penalty": 1.2, "max_new_tokens": 30}
        ids = turn(decoder, reuse, inputs, **options)
        inputs = going_on(first, ids, 5, seed=number)
        assert number == 0 or reuse.reused > first["input_ids"].shape[1]


@pytest.mark.parametrize("first_turn", [True, False])
def test_a_text_of_one_token(first_turn: bool) -> None:
    """The draft has not read the prompt of a text that ends at once; the next turn sees to it."""
    target, draft = build_pair("qwen3_vl")
    first = make_inputs(target, "qwen3_vl", "video", length=9)
    reuse, inputs = PrefixReuse(), first
    decoder = SpeculativeDecoder(target, draft, "sage")
    for number in range(4):
        new = 1 if number == (0 if first_turn else 1) else 20
        ids = turn(decoder, reuse, inputs, max_new_tokens=new)
        inputs = going_on(first, ids, 3, seed=number)
    assert reuse.reused > first["input_ids"].shape[1]


def test_different_prefixes_are_read_again() -> None:
    """Other words late in the text: from there. Other pictures, or words before them: all."""
    target, draft = build_pair("llava_onevision")
    decoder = SpeculativeDecoder(target, draft, "sage")
    reuse = PrefixReuse()
    first = make_inputs(target, "llava_onevision", "image", length=9)
    prompt = first["input_ids"].shape[1]
    ids = turn(decoder, reuse, first, max_new_tokens=NEW)
    turn(decoder, reuse, going_on(first, ids[:, : prompt + 4], 6, 1), max_new_tokens=NEW)
    assert reuse.reused == prompt + 4
    shorter = going_on(first, ids[:, : prompt - 2], 1, 2)
    turn(decoder, reuse, shorter, max_new_tokens=NEW)
    assert reuse.reused == prompt - 2
    other = first | {"input_ids": first["input_ids"].clone()}
    other["input_ids"][0, 1] = FIRST_WORD + (int(first["input_ids"][0, 1]) == FIRST_WORD)
    turn(decoder, reuse, other, max_new_tokens=NEW)
    assert reuse.reused == 0
    bright = other | {"pixel_values": other["pixel_values"] + 1}
    turn(decoder, reuse, bright, max_new_tokens=NEW)
    assert reuse.reused == 0
    turn(decoder, reuse, make_inputs(target, "llava_onevision", "text"), max_new_tokens=NEW)
    assert reuse.reused == 0
    same = first | {"pixel_values": first["pixel_values"].clone()}
    ids = turn(decoder, reuse, same, max_new_tokens=NEW)
    turn(decoder, reuse, going_on(first, ids, 2, 3), max_new_tokens=NEW)
    assert reuse.reused == prompt + NEW - 1


@pytest.mark.parametrize("place", ["between steps", "in the target", "in the draft"])
def test_an_error_in_a_step_drops_the_caches(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft = build_pair("qwen2_vl")
    decoder = SpeculativeDecoder(target, draft, "sage")
    reuse = PrefixReuse()
    first = make_inputs(target, "qwen2_vl", "image", length=9)
    stream = decoder.stream(reuse=reuse, **first, max_new_tokens=40)
    for _ in range(3):
        next(stream)
    if place != "between steps":
        assert reuse.drafter is not None
        runner = stream._target if place == "in the target" else reuse.drafter._runner

        def fail(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(runner.cache.layers[0], "update", fail)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    ids = stream.output().sequences
    turn(decoder, reuse, going_on(first, ids, 4, 0), max_new_tokens=NEW)
    assert (reuse.reused > 0) == (place == "between steps")


def test_a_new_text_ends_the_previous_one() -> None:
    target, draft = build_pair("llama")
    decoder = SpeculativeDecoder(target, draft, "chain")
    reuse = PrefixReuse()
    first = make_inputs(target, "llama", "text", length=9)
    old = decoder.stream(reuse=reuse, **first, max_new_tokens=40)
    next(old)
    turn(decoder, reuse, first, max_new_tokens=NEW)
    with pytest.raises(RuntimeError, match="another text has been started"):
        next(old)


def test_another_draft_drops_the_caches() -> None:
    target, draft = build_pair("llama")
    first = make_inputs(target, "llama", "text", length=9)
    reuse = PrefixReuse()
    turn(SpeculativeDecoder(target, draft, "chain"), reuse, first, max_new_tokens=NEW)
    turn(SpeculativeDecoder(target, None, "autoregressive"), reuse, first, max_new_tokens=NEW)
    assert reuse.reused == 0


@pytest.mark.parametrize("method", ["verifier", "uniform"])
def test_a_draft_with_pruned_prompts(method: str) -> None:
    target, draft = build_pair("qwen2_5_vl")
    decoder = SpeculativeDecoder(target, draft, "sage", Pruning(0.5, method))
    reuse = PrefixReuse()
    inputs = first = make_inputs(target, "qwen2_5_vl", "mixed", length=9)
    for number in range(3):
        ids = turn(decoder, reuse, inputs, max_new_tokens=NEW)
        inputs = going_on(first, ids[:, :-3] if number == 1 else ids, 5, number)
    assert reuse.reused > first["input_ids"].shape[1]

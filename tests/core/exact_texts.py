"""Texts of small models by every way of decoding, compared with their own `generate`."""

from __future__ import annotations

import copy
from typing import Any

import torch

import sage_core
from sage_core.runtime.backend import EagerBackend
from tests.core.test_trial import ids

RULES: dict[str, Any] = {"max_new_tokens": 48, "eos_token_id": None, "do_sample": False,
                         "no_repeat_ngram_size": 2}  # fmt: skip
WAYS = ("static", "chain:length=16", "sage", "autoregressive")


def near(model: Any) -> Any:
    """A draft that is often right: the model with a little noise."""
    draft, draw = copy.deepcopy(model), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in draft.parameters():
            if weight.dim() > 1:
                weight.add_(torch.randn(weight.shape, generator=draw) * 0.02 * weight.std())
    return draft


def inputs(count: int) -> dict[str, Any]:
    return {"input_ids": ids(count), "attention_mask": torch.ones((1, count), dtype=torch.int64)}


def assert_own_text(model: Any, prompt: int, rules: dict[str, Any]) -> int:
    """Compare the texts of all ways; returns how many draft tokens they have accepted in all."""
    own = model.generate(**inputs(prompt), **rules)
    assert len(set(own[0, prompt:].tolist())) > 1
    draft = near(model)
    accepted = 0
    for policy in WAYS:
        chosen = None if policy == "autoregressive" else draft
        decoder = sage_core.SpeculativeDecoder(model, chosen, policy)
        output = decoder.generate(**inputs(prompt), **rules)
        assert torch.equal(output.sequences, own), policy
        accepted += output.stats.new_tokens - output.stats.steps - 1
    return accepted


def assert_own_sampled_and_padded(model: Any, rules: dict[str, Any]) -> None:
    """Compare a sampled text, and those of a batch of prompts that are padded on the left."""
    draft = near(model)
    sampled = {**rules, "do_sample": True, "temperature": 0.8}
    decoder = sage_core.SpeculativeDecoder(model, draft, "static", backend=EagerBackend())
    torch.manual_seed(3)
    own = model.generate(**inputs(9), **sampled)
    assert torch.equal(decoder.generate(**inputs(9), seed=3, **sampled).sequences, own)
    mask = torch.ones((3, 20), dtype=torch.int64)
    mask[0, :15], mask[1, :4] = 0, 0
    prompts = torch.randint(3, 90, (3, 20), generator=torch.Generator().manual_seed(8))
    rules = {**rules, "pad_token_id": 0}
    batch = model.generate(
        input_ids=prompts,
        attention_mask=mask,
        custom_generate=sage_core.custom_generate,
        draft_model=draft,
        **rules,
    )
    new = rules["max_new_tokens"]
    for row in range(3):
        alone = prompts[row : row + 1, mask[row].bool()]
        own = model.generate(alone, attention_mask=torch.ones_like(alone), **rules)
        assert torch.equal(batch[row, -new:], own[0, -new:])

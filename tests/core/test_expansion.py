"""Expanded models compute the small model's function; sizes and floors add up."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch

from benchmarks import expansion
from benchmarks.expansion import PAIRS, QWEN_7B, QWEN_HALF_B, Shape, expand, fitted
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.models.catalog import BUNDLED_DRAFT
from sage_core.pair_loading import LoadedPair, load_pair
from training.world.inputs import items

TARGET = Shape("a target", 18, 320, 10, 5, 128, 640, 1500, False)
"""Wider, deeper, heads twice as large, a key/value head too many, groups of two."""
DRAFT = Shape("a draft", 3, 288, 14, 2, 64, 800, 1450, True)
"""Too few key/value heads, and the head tied to the embedding."""


@lru_cache(maxsize=1)
def bundled() -> LoadedPair:
    return load_pair(draft=BUNDLED_DRAFT, device="cpu", dtype="float32")


@lru_cache(maxsize=1)
def expanded() -> tuple[Any, Any]:
    torch.manual_seed(0)
    return expand(bundled().target, TARGET), expand(bundled().draft, DRAFT)


def some_inputs(count: int) -> list[dict[str, Any]]:
    family = bundled().family
    return [dict(family.prepare(item.media, item.prompt)) for item in items(count, seed=5)]


@pytest.mark.parametrize("which", [0, 1], ids=["target", "draft"])
def test_logits_are_the_small_model_s(which: int) -> None:
    small = (bundled().target, bundled().draft)[which]
    large = expanded()[which]
    assert (
        large.get_decoder()
        .layers[0]
        .self_attn.q_proj.weight[:, small.get_decoder().config.hidden_size :]
        .any()
    )
    for inputs in some_inputs(2):
        with torch.inference_mode():
            expected, got = small(**inputs).logits, large(**inputs).logits
        known = expected.shape[-1]
        torch.testing.assert_close(got[..., :known], expected, atol=2e-4, rtol=1e-4)
        assert (got[..., known:] < expected.min() - 50).all()


def test_greedy_text_is_the_small_model_s() -> None:
    small = bundled()
    target, draft = expanded()
    for inputs in some_inputs(3):
        expected = small.target.generate(**inputs, max_new_tokens=24, do_sample=False)
        decoded = SpeculativeDecoder(target, draft, "static").generate(**inputs, max_new_tokens=24)
        plain = SpeculativeDecoder(small.target, small.draft, "static").generate(
            **inputs, max_new_tokens=24
        )
        assert decoded.sequences.tolist() == expected.tolist()
        # The trees are the same too: the draft's probabilities are, not only its favourite.
        assert [step.accepted for step in decoded.steps] == [step.accepted for step in plain.steps]


def test_published_shapes_have_published_sizes() -> None:
    """7.62 B and 0.49 B parameters, as their model cards say, before heads are added."""
    text = bundled().target.config.text_config
    assert fitted(QWEN_7B, text) == QWEN_7B
    assert fitted(QWEN_HALF_B, text) == replace(QWEN_HALF_B, heads=16, kv_heads=4)
    target = expansion.floor(bundled().target, QWEN_7B)
    assert target.parameters == 7_615_616_512
    assert target.pass_bytes == 2 * (7_615_616_512 - 152064 * 3584)
    assert target.milliseconds(0, 4.3e12) == pytest.approx(3.29, abs=0.01)
    draft = expansion.floor(bundled().draft, QWEN_HALF_B)
    added = 24 * (2 * (128 * 897) + 2 * (128 * 896) + 128)
    assert draft.parameters == 494_032_768 + added


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers": 16}, "room for 15 layers, not 16"),
        ({"hidden": 256}, "room for 255 hidden entries, not 256"),
        ({"mlp": 500}, "room for 500 MLP units"),
        ({"vocab": 1000}, "room for 1000 tokens"),
        ({"head_size": 96}, "heads of 96 are no multiple of 64"),
        ({"kv_heads": 3}, "10 heads do not share 3 keys"),
    ],
)
def test_shapes_that_cannot_hold_it_are_refused(change: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fitted(replace(TARGET, **change), bundled().target.config.text_config)


def test_the_table_of_floors(capsys: pytest.CaptureFixture[str]) -> None:
    assert expansion.main(["--bandwidth", "4.3e12"]) == 0
    out = capsys.readouterr().out
    assert "| qwen-7b | target: Qwen2.5-VL-7B | 28 x 3584 | 28 / 4 | 7.62 B | 14.14 |" in out
    assert "Qwen2.5-0.5B has 16 heads over 4 keys, not 14 over 2" in out
    assert all(out.count(f"| {name} |") == 2 for name in PAIRS)

"""Pruning for the draft: chosen tokens, their scores, and unchanged texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sage_core import OptionError, SpeculativeDecoder
from sage_core.drafts.pruning.draft_prompt import DraftPrompt
from sage_core.drafts.pruning.options import METHODS, Pruning
from sage_core.drafts.pruning.scores import AttentionScores
from sage_core.generation.prepare import prepare, prepare_draft
from sage_core.runtime.runner import Runner
from tests.tiny.families import FAMILIES
from tests.tiny.inputs import make_inputs
from tests.tiny.pairs import build_pair

SEEING = [
    (family, kind)
    for family, spec in FAMILIES.items()
    for kind in spec.kinds
    if kind in ("image", "video", "mixed")
]


@given(
    visual=st.integers(1, 400),
    ratio=st.floats(0, 0.95),
    method=st.sampled_from([m for m in METHODS if m != "none"]),
    share=st.floats(0, 1),
    seed=st.integers(0, 3),
)
def test_the_number_of_kept_tokens(
    visual: int, ratio: float, method: str, share: float, seed: int
) -> None:
    pruning = Pruning(ratio, method, share, seed=seed)
    kept = pruning.kept(visual, video=False)
    assert kept == max(1, round(visual * (1 - ratio)))
    scores = torch.from_numpy(np.random.default_rng(seed).random(visual))
    chosen = pruning.choose(visual, kept, scores)
    assert len(chosen) == kept and (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0 and chosen[-1] < visual
    if method in ("verifier", "alignment"):
        best = set(scores.argsort(descending=True)[: round(share * kept)].tolist())
        assert best <= set(chosen.tolist())


def test_tokens_that_are_not_ranked_are_evenly_spaced() -> None:
    assert Pruning(0.8, "uniform").choose(20, 4).tolist() == [2, 7, 12, 17]
    scores = torch.zeros(20)
    scores[3] = 1.0
    assert Pruning(0.9, "verifier").choose(20, 2, scores).tolist() == [3, 10]


@pytest.mark.parametrize(
    ("visual", "video", "kept"), [(100, True, 100), (4000, True, 400), (4000, False, 800)]
)
def test_the_paper_s_ratios_where_prompts_are_long(visual: int, video: bool, kept: int) -> None:
    assert Pruning().kept(visual, video) == kept


@pytest.mark.parametrize("wrong", [{"ratio": 0.96}, {"ratio": -0.1}, {"method": "x"}, {"share": 2}])
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Pruning(**wrong)


def visual_positions(model: Any, ids: torch.Tensor) -> torch.Tensor:
    marks = [getattr(model.config, name, None) for name in ("image_token_id", "video_token_id")]
    return torch.isin(ids[0], torch.tensor([m for m in marks if m is not None])).nonzero()[:, 0]


@pytest.mark.parametrize(("family", "kind"), SEEING)
def test_scores_are_the_mean_of_the_attention_itself(family: str, kind: str) -> None:
    target = build_pair(family).target
    inputs = make_inputs(target, family, kind)
    visual = visual_positions(target, inputs["input_ids"])
    length = inputs["input_ids"].shape[1]
    found = AttentionScores(visual, length)
    prepared = prepare(target, {**inputs, "max_new_tokens": 4})
    with found.observing(target.get_decoder()):
        Runner(target).prefill(prepared, 8)
    target.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            layers = target(**inputs, output_attentions=True).attentions
    finally:
        target.set_attn_implementation("sdpa")
    rows = torch.stack([layer[0, :, int(visual[-1]) + 1 :] for layer in layers])
    wanted = rows[..., visual].mean(dim=(0, 1, 2))
    assert found.scores is not None
    torch.testing.assert_close(found.scores, wanted, rtol=1e-4, atol=1e-6)


def test_scores_do_not_depend_on_the_memory_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    target = build_pair("llava").target
    inputs = make_inputs(target, "llava", "image", length=40)
    scores = []
    for budget in (64 * 1024**2, 1):
        monkeypatch.setattr("sage_core.drafts.pruning.scores.BUDGET", budget)
        gathered = AttentionScores(visual_positions(target, inputs["input_ids"]), 0)
        gathered._length = inputs["input_ids"].shape[1]
        with gathered.observing(target.get_decoder()), torch.no_grad():
            target(**inputs)
        scores.append(gathered.scores)
    torch.testing.assert_close(scores[0], scores[1])


@pytest.mark.parametrize(("family", "kind"), SEEING)
def test_a_pruned_prompt_equals_the_prompt_with_a_mask(family: str, kind: str) -> None:
    draft = build_pair(family).draft
    inputs = make_inputs(draft, family, kind)
    length = inputs["input_ids"].shape[1]
    visual = visual_positions(draft, inputs["input_ids"]).numpy()
    seen = np.ones(length, dtype=bool)
    seen[visual] = False
    seen[visual[:: max(2, len(visual) // 5)]] = True
    prepared = prepare_draft(draft, inputs)
    runner = Runner(draft)
    logits = runner.prefill(prepared, 8, seen.nonzero()[0]).logits
    assert runner.committed == int(seen.sum()) == runner.cache.length

    hidden = np.tril(np.ones((length, length), dtype=bool)) & seen[None, :]
    hidden |= np.eye(length, dtype=bool)
    mask = torch.zeros(1, 1, length, length).masked_fill(
        torch.from_numpy(~hidden), torch.finfo(torch.float32).min
    )
    whole = Runner(draft)
    whole.prefill(prepared, 8)  # prepares the cache and the positions as ever
    full = draft.prepare_inputs_for_generation(
        prepared.input_ids,
        is_first_iteration=True,
        **{**prepared.model_inputs, "past_key_values": None, "use_cache": False},
    )
    full["attention_mask"] = mask
    with torch.no_grad():
        wanted = draft(**full).logits[:, -1]
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    # And the text behind it continues at the prompt's own positions.
    assert runner._offset + runner.committed == whole._offset + whole.committed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("family", "kind"), SEEING)
def test_pruning_never_changes_the_text(family: str, kind: str, method: str) -> None:
    target, draft = build_pair(family)
    inputs = make_inputs(target, family, kind)
    wanted = target.generate(**inputs, do_sample=False, max_new_tokens=12)
    for ratio in (0.5, 0.9):
        decoder = SpeculativeDecoder(target, draft, "sage", Pruning(ratio, method))
        output = decoder.generate(**inputs, max_new_tokens=12)
        assert output.sequences.tolist() == wanted.tolist()
        visual = output.stats.visual_tokens
        share = 1.0 if method == "none" else 1 - ratio
        assert visual > 0
        assert output.stats.draft_visual_tokens == max(1, round(visual * share))


def test_without_observable_attention_pruning_is_uniform() -> None:
    target = build_pair("llava").target
    prepared = prepare(target, {**make_inputs(target, "llava", "image"), "max_new_tokens": 2})
    ranked = DraftPrompt(Pruning(0.5, "verifier"), target.config, prepared)
    uniform = DraftPrompt(Pruning(0.5, "uniform"), target.config, prepared)
    found, wanted = ranked.positions(), uniform.positions()
    assert found is not None and wanted is not None
    assert found.tolist() == wanted.tolist()

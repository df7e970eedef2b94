"""Processors that keep a state, watermarks, and the scores that a caller asks for."""

from __future__ import annotations

import pytest
import torch
import transformers as tf

from sage_core.engine.decoder import SpeculativeDecoder
from tests.core.test_exactness import assert_exact
from tests.core.test_processors import FAMILY, GREEDY, KIND, POLICIES
from tests.tiny import build_pair, make_inputs


class _Counting(tf.LogitsProcessor):
    """Keeps a state: what it forbids depends on how often it was asked, and about what."""

    def __init__(self) -> None:
        self.asked = 0
        self.seen: list[int] = []

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert ids.shape[0] == scores.shape[0] == 1
        self.asked += 1
        self.seen.append(ids.shape[1])
        scores = scores.clone()
        scores[:, 8 + self.asked % 4 :: 4] = -torch.inf
        return scores


@pytest.mark.parametrize("policy", POLICIES)
def test_a_processor_with_a_state_is_asked_once_a_token(policy: str) -> None:
    """Drafts do not reach it: it would lose count."""
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    texts, seen = [], []
    for decode in (target.generate, SpeculativeDecoder(target, draft, policy).generate):
        counting = _Counting()
        output = decode(**inputs, **GREEDY, logits_processor=tf.LogitsProcessorList([counting]))
        texts.append(getattr(output, "sequences", output))
        seen.append(counting.seen)
    assert torch.equal(*texts)
    assert seen[0] == seen[1]


class _Stepping(tf.LogitsProcessor):
    """Keeps no state and says so: drafts obey it, and every other token is forbidden."""

    stateless = True

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[ids[:, -1] % 2 == 0, 8::2] = -torch.inf
        scores[ids[:, -1] % 2 == 1, 9::2] = -torch.inf
        return scores


def test_a_processor_that_says_it_has_no_state_shapes_the_drafts() -> None:
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    rules = tf.LogitsProcessorList([_Stepping()])
    output = assert_exact(target, draft, "static", inputs, logits_processor=rules, **GREEDY)
    drafted = [
        (step.root if parent < 0 else step.tree.tokens[parent], token)
        for step in output.steps
        for token, parent in zip(step.tree.tokens, step.tree.parents, strict=True)
    ]
    assert drafted and all(token < 8 or (above + token) % 2 for above, token in drafted)


WATERMARKS = {
    "green list": tf.WatermarkingConfig(bias=4.0),
    "green list, self hash": tf.WatermarkingConfig(seeding_scheme="selfhash", context_width=2),
    "SynthID": tf.SynthIDTextWatermarkingConfig(
        keys=[654, 400, 836, 123, 340], ngram_len=3, context_history_size=64
    ),
}


@pytest.mark.parametrize("sampling", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", WATERMARKS)
def test_watermarks(name: str, sampling: bool) -> None:
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    options = {"max_new_tokens": 24, "do_sample": sampling}
    marked = options | {"watermarking_config": WATERMARKS[name]}
    texts = []
    for given in (options, marked):
        torch.manual_seed(2)
        texts.append(target.generate(**inputs, **given))
    output = SpeculativeDecoder(target, draft).generate(**inputs, **marked, seed=2)
    assert torch.equal(output.sequences, texts[1])
    assert not torch.equal(texts[0], texts[1]), "it changes nothing here: shows little"


@pytest.mark.parametrize("policy", ["autoregressive", "static"])
def test_scores_and_logits_come_back_when_asked_for(policy: str) -> None:
    target, draft = build_pair(FAMILY)
    inputs = make_inputs(target, FAMILY, KIND)
    options = {"max_new_tokens": 12, "output_scores": True, "output_logits": True}
    decoder = SpeculativeDecoder(target, draft, policy)
    for more in ({}, {"repetition_penalty": 1.3}):
        whole = target.generate(
            **inputs, **options, **more, do_sample=False, return_dict_in_generate=True
        )
        output = decoder.generate(**inputs, **options, **more)
        assert torch.equal(output.sequences, whole.sequences)
        for mine, theirs in ((output.scores, whole.scores), (output.logits, whole.logits)):
            torch.testing.assert_close(torch.cat(mine), torch.cat(theirs), atol=1e-4, rtol=1e-4)
    assert decoder.generate(**inputs, max_new_tokens=3).scores is None

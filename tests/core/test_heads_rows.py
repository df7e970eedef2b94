"""Logits of a head's drafts against plain passes over the whole text, without cache and tree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sage_core.drafts.head.drafter import HeadDrafter
from sage_core.drafts.head.init import new_head
from sage_core.drafts.head.module import Head
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.generation.sequence import TokenSequence
from sage_core.models.inputs import visual_mask
from sage_core.trees.tree import ROOT, TreeBuilder
from tests.core.test_exactness import assert_exact
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.heads import KINDS, LATEST, head_for


class Spy(HeadDrafter):
    """Records the logits after each drafted path."""

    recorded: list[tuple[tuple[int, ...], Tensor]]

    def _scores(
        self, logits: Tensor, builder: TreeBuilder, frontier: Any, text: TokenSequence
    ) -> Tensor:
        for row, node in enumerate(frontier):
            path: list[int] = []
            while node != ROOT:
                path.insert(0, builder.tokens[node])
                node = builder.parents[node]
            self.recorded.append((tuple(path), logits[row]))
        return super()._scores(logits, builder, frontier, text)


def read_whole(
    target: Any, head: Head, inputs: dict[str, Any], text: list[int], *, training: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows (1, m, size) for all tokens of ``text`` but the first, their positions, and what joins.

    ``text`` begins with the prompt; features are those of the target's forward over all of it.
    """
    n = inputs["input_ids"].shape[1]
    ids = torch.tensor([text])
    whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in inputs:
        more = torch.zeros((1, len(text) - n), dtype=inputs["mm_token_type_ids"].dtype)
        whole["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], more], dim=1)
    heard: dict[str, Any] = {}

    def note(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
        given = kwargs.get("inputs_embeds")
        if given is None:
            given = target.get_input_embeddings()(ids)
        heard.update(features=output.last_hidden_state, embeds=given, at=kwargs["position_ids"])

    handle = target.get_decoder().register_forward_hook(note, with_kwargs=True)
    with torch.no_grad():
        prepared = target.prepare_inputs_for_generation(
            ids, is_first_iteration=True, **{k: v for k, v in whole.items() if k != "input_ids"}
        )
        target(**prepared)
    handle.remove()
    features, embeds, at = heard["features"], heard["embeds"], heard["at"]
    if at is None:
        at = torch.arange(len(text))[None]
    at = at[1:] if at.ndim == 3 and at.shape[0] == 4 else at
    visual = visual_mask(target.config, ids[0])
    read = head.build_prompt(
        features[:, : n - 1], embeds[:, 1:n], visual[1:n], at[..., 1:n], training=training
    )
    later = head.inputs(features[:, n - 1 : -1], embeds[:, n:], read.global_feature)
    rows = torch.cat([read.inputs, later], dim=1)
    return rows, torch.cat([read.positions, at[..., n:]], dim=-1), read.global_feature


def predicted(head: Head, rows: Tensor, places: Tensor) -> Tensor:
    """(1, m, size) by one causal pass without a cache."""
    mask = torch.full((rows.shape[1],) * 2, torch.finfo(rows.dtype).min).triu(1)[None, None]
    out: Tensor = head.decoder(
        inputs_embeds=rows, position_ids=places, attention_mask=mask, use_cache=False
    ).last_hidden_state
    return out


@torch.no_grad()
def plain(target: Any, head: Head, inputs: dict[str, Any], text: list[int], path: Any) -> Tensor:
    """The head's logits behind ``text`` and ``path``, without a cache and without a tree."""
    rows, places, joined = read_whole(target, head, inputs, text)
    out = predicted(head, rows, places)[:, -1:]
    for token in path:
        embed = target.get_input_embeddings()(torch.tensor([[token]]))
        rows = torch.cat([rows, head.inputs(out, embed, joined)], dim=1)
        places = torch.cat([places, places[..., -1:] + 1], dim=-1)
        out = predicted(head, rows, places)[:, -1:]
    logits: Tensor = target.get_output_embeddings()(out)[0, 0]
    return logits


@pytest.mark.parametrize("kind", ["head", "weighted", "concat", "vispec"])
@pytest.mark.parametrize("family", LATEST)
def test_drafted_logits_equal_plain_passes(
    family: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features before each token, positions, masks, the cache behind accepted paths."""
    target, head = build_pair(family).target, head_for(family, kind)
    inputs = make_inputs(target, family, FAMILIES[family].kinds[-1], length=9)
    recorded: list[tuple[tuple[int, ...], Tensor]] = []
    monkeypatch.setattr(Spy, "recorded", recorded, raising=False)
    monkeypatch.setattr("sage_core.engine.session.HeadDrafter", Spy)
    text = inputs["input_ids"][0].tolist()
    accepted = 0
    checked = 0
    for step in SpeculativeDecoder(target, head, "eagle2:depth=3,beam=2,k=3,nodes=9").stream(
        **inputs, max_new_tokens=12
    ):
        for path, logits in (*recorded[:1], *recorded[1:][-1:]):
            wanted = plain(target, head, inputs, text, path)
            torch.testing.assert_close(logits, wanted, rtol=1e-3, atol=1e-3)
            checked += 1
        recorded.clear()
        text += step.tokens
        accepted += len(step.accepted)
    assert checked > 8 and accepted > 0


@pytest.mark.parametrize("begun", [8, 1])
def test_continued_texts_read_their_own_features(
    begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts behind one another, as in a conversation: rows are those of the whole.

    Some differ from the one before in its end, and some are over with the prefill's own token.
    """
    target, head = build_pair("qwen2_5_vl").target, head_for("qwen2_5_vl", "vispec")
    inputs = make_inputs(target, "qwen2_5_vl", "image", length=9)
    recorded: list[tuple[tuple[int, ...], Tensor]] = []
    monkeypatch.setattr(Spy, "recorded", recorded, raising=False)
    monkeypatch.setattr("sage_core.engine.session.HeadDrafter", Spy)
    decoder, reuse = SpeculativeDecoder(target, head, "static"), PrefixReuse()
    text = inputs["input_ids"][0].tolist()
    for step in decoder.stream(reuse=reuse, **inputs, max_new_tokens=begun):
        text += step.tokens
    turns = ((0, [30, 31, 32], 8), (4, [40, 41], 8), (0, [70], 1), (1, [60], 1), (0, [50], 8))
    for number, (cut, told, new) in enumerate(turns):
        text = [*text[: len(text) - cut], *told]
        ids = torch.tensor([text])
        types = torch.zeros_like(ids, dtype=torch.int32)
        types[:, : inputs["input_ids"].shape[1]] = inputs["mm_token_type_ids"]
        whole = {
            **inputs,
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": types,
        }
        recorded.clear()
        wanted = target.generate(**whole, do_sample=False, max_new_tokens=new)
        first = None
        for step in decoder.stream(reuse=reuse, **whole, max_new_tokens=new):
            if first is None and recorded:
                first = recorded[0][1]
                plainly = plain(target, head, inputs, text, ())
                torch.testing.assert_close(first, plainly, rtol=1e-3, atol=1e-3)
            text += step.tokens
        assert text == wanted[0].tolist() and (first is None) == (new == 1)
        held = reuse.reused > 0
        assert held == (begun > 1 or number > 0)


@pytest.mark.parametrize("kind", ["head", "weighted", "vispec"])
def test_a_trained_head_is_right(kind: str) -> None:
    """What it learns from rows that are made as `Head.read` says is what it drafts."""
    target = build_pair("qwen2_5_vl").target
    inputs = make_inputs(target, "qwen2_5_vl", "image", length=9)
    text = target.generate(**inputs, do_sample=False, max_new_tokens=24)[0].tolist()
    torch.manual_seed(0)
    head = new_head(target, name="x", **KINDS[kind]).train()
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    n = inputs["input_ids"].shape[1]
    for _ in range(40):
        rows, places, _ = read_whole(target, head, inputs, text[:-1], training=True)
        logits = predicted(head, rows, places)[0] @ target.lm_head.weight.detach().T
        # The row of a token is for the one behind it; nothing drafts the text's first.
        loss = torch.nn.functional.cross_entropy(
            logits[-(len(text) - n - 1) :], torch.tensor(text[n + 1 :])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    output = assert_exact(target, head.eval(), "static", inputs, max_new_tokens=24)
    assert output.stats.mean_accepted > 2

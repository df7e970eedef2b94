"""A head's prompt inputs: each image compressor against a plain reference."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sage_core.drafts.head.compressor import (
    Compressor,
    Convolution,
    Pool,
    Prune,
    Resampler,
    run_edges,
)
from sage_core.drafts.head.config import BRANCHES, MODES, HeadConfig
from sage_core.drafts.head.init import new_head
from sage_core.drafts.head.module import Head, visual_runs
from sage_core.errors import ModelError, OptionError
from tests.tiny import build_pair

SIZE = 8
COUNTS = (1, 2, 7, 12, 20)


def rows_of(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, SIZE, generator=torch.Generator().manual_seed(seed))


def config(**options: Any) -> HeadConfig:
    given = {"hidden_size": SIZE, "vocab_size": 10, "target": "t", "kind": "specvlm"}
    return HeadConfig(**(given | options))


@pytest.mark.parametrize("ratio", [1, 2.5, 3, 20])
@pytest.mark.parametrize("n", COUNTS)
def test_pooling_is_the_mean_of_runs(n: int, ratio: float) -> None:
    rows = rows_of(n)
    pooled, places = Pool(ratio)(rows)
    count = math.ceil(n / ratio)
    assert pooled.shape == (count, SIZE)
    start = 0
    for run in range(count):
        end = n if run == count - 1 else math.floor((run + 1) * ratio)
        torch.testing.assert_close(
            pooled[run], sum(rows[i] for i in range(start, end)) / (end - start)
        )
        assert int(places[run]) == end - 1
        start = end
    assert run_edges(n, ratio)[-1] == n


@pytest.mark.parametrize("ratio", [1, 3, 20])
@pytest.mark.parametrize("n", COUNTS)
def test_a_convolution_is_initialized_as_pooling(n: int, ratio: int) -> None:
    rows, branch = rows_of(n), Convolution(SIZE, ratio)
    wanted, places = Pool(ratio)(rows)
    got, at = branch(rows)
    torch.testing.assert_close(got, wanted)
    assert at.tolist() == places.tolist()
    with torch.no_grad():
        branch.convolution.weight.normal_()
    weight = branch.convolution.weight  # (out, in, place in the run)
    got, _ = branch(rows)
    for run in range(n // ratio):
        wanted_row = sum(weight[:, :, i] @ rows[run * ratio + i] for i in range(ratio))
        torch.testing.assert_close(got[run], wanted_row, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", COUNTS)
def test_pruning_keeps_the_largest_norms_in_order(n: int) -> None:
    rows = rows_of(n) * torch.arange(1, n + 1)[:, None]
    branch = Prune(SIZE, 3)
    kept, places = branch(rows)
    lengths = rows.norm(dim=-1).tolist()
    wanted = sorted(sorted(range(n), key=lambda i: -lengths[i])[: math.ceil(n / 3)])
    assert places.tolist() == wanted
    torch.testing.assert_close(kept, rows[wanted])
    with torch.no_grad():  # a learned score outweighs length, and scales what is kept
        branch.score.weight.copy_(100 * rows[:1] / rows[0].norm() ** 2)
    kept, places = branch(rows)
    scores = (rows @ branch.score.weight[0]).detach()
    salience = [math.log(length) + float(s) for length, s in zip(lengths, scores, strict=True)]
    wanted = sorted(sorted(range(n), key=lambda i: -salience[i])[: math.ceil(n / 3)])
    assert places.tolist() == wanted
    torch.testing.assert_close(kept, rows[wanted] * 2 * scores[wanted].sigmoid()[:, None])


@pytest.mark.parametrize("heads", [1, 2, 3])  # 3 does not divide the size: one head then
def test_a_resampler_is_cross_attention(heads: int) -> None:
    rows, branch = rows_of(7), Resampler(SIZE, 3, heads)
    with torch.no_grad():
        for weight in branch.parameters():
            weight.normal_()
    got, places = branch(rows)
    assert places.tolist() == [6, 6, 6]
    heads = branch.heads
    width = SIZE // heads
    query, value = branch.queries @ branch.query.weight.T, rows @ branch.value.weight.T
    scaled = rows / (rows.pow(2).mean(-1, keepdim=True) + torch.finfo(rows.dtype).eps).sqrt()
    key = scaled * branch.norm.weight @ branch.key.weight.T
    parts = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = (query[:, part] @ key[:, part].T / width**0.5).softmax(dim=-1)
        parts.append(weights @ value[:, part])
    wanted = torch.cat(parts, dim=-1) @ branch.out.weight.T
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_weighted_is_the_gated_sum() -> None:
    torch.manual_seed(0)
    compressor = Compressor(config(mode="weighted", ratio=3.0), 2)
    assert compressor.gate is not None
    compressor.gate.weight.data.normal_()
    question = rows_of(1, 5)[0]
    weights = compressor.weights(question)
    assert weights is not None
    logits = compressor.gate.weight @ question + compressor.gate.bias
    torch.testing.assert_close(weights, logits.exp() / logits.exp().sum())
    rows = rows_of(11)
    got, places = compressor(rows, weights)
    parts = [branch(rows)[0] for branch in compressor.branches.values()]
    torch.testing.assert_close(got, sum(w * p for w, p in zip(weights, parts, strict=True)))
    assert places.tolist() == [2, 5, 8, 10] and len(parts) == 3


def test_concat_is_all_branches_in_order() -> None:
    compressor = Compressor(config(mode="concat"), 2)
    assert compressor.gate is None
    got, places = compressor(rows_of(41), compressor.weights(rows_of(1)[0]))
    assert len(got) == len(places) == 3 + 3 + 14 + 2  # 20x, 20x, 3x, two queries
    parts = [branch(rows_of(41))[0] for branch in compressor.branches.values()]
    torch.testing.assert_close(got, torch.cat(parts))


def test_select_takes_the_branch_of_the_largest_weight() -> None:
    compressor = Compressor(config(mode="select"), 2)
    assert compressor.gate is not None and tuple(compressor.branches) == BRANCHES
    rows, question = rows_of(41), rows_of(1, 3)[0]
    for index, name in enumerate(BRANCHES):
        compressor.gate.bias.data.zero_()[index] = 1.0
        weights = compressor.weights(question)
        assert weights is not None and weights.tolist() == [float(i == index) for i in range(5)]
        got, places = compressor(rows, weights)
        wanted, at = compressor.branches[name](rows)
        torch.testing.assert_close(got, wanted)
        assert places.tolist() == at.tolist()


def test_select_samples_in_training_and_its_gate_has_gradients() -> None:
    torch.manual_seed(1)
    compressor = Compressor(config(mode="select"), 2)
    assert compressor.gate is not None
    drawn = set()
    for _ in range(60):
        weights = compressor.weights(rows_of(1)[0], training=True)
        assert weights is not None and weights.detach().sort().values.tolist() == [0, 0, 0, 0, 1]
        drawn.add(int(weights.argmax()))
        compressor(rows_of(9), weights)[0].sum().backward()
    assert drawn == set(range(5))
    assert compressor.gate.weight.grad is not None and compressor.gate.weight.grad.abs().sum() > 0


# A whole prompt.

VISUAL = torch.tensor([False] * 3 + [True] * 7 + [False] * 2 + [True] * 4 + [False] * 5)
RUNS = [(3, 10), (12, 16)]


def head_of(family: str, **options: Any) -> Head:
    torch.manual_seed(0)
    head = new_head(build_pair(family).target, name="t", **options)
    if head.join is not None:
        head.join.weight.data.normal_()
    return head


def given(head: Head, axes: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (1, len(VISUAL), head.config.hidden_size)
    features, embeds = (torch.randn(shape, generator=generator) for _ in range(2))
    positions = torch.arange(len(VISUAL))[None] * 2
    if axes > 1:
        positions = torch.stack([positions + 100 * axis for axis in range(axes)])
    return features, embeds, positions


def test_runs() -> None:
    assert visual_runs(VISUAL) == RUNS
    assert visual_runs(torch.ones(3, dtype=torch.bool)) == [(0, 3)]
    assert visual_runs(torch.zeros(3, dtype=torch.bool)) == []


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("mode", [None, *MODES, "vispec"])
def test_inputs_of_a_prompt(mode: str | None, axes: int) -> None:
    if mode == "vispec":
        head = head_of("llama", kind="vispec")
    elif mode is None:
        head = head_of("llama")
    else:
        head = head_of("llama", kind="specvlm", mode=mode)
    features, embeds, positions = given(head, axes)
    with torch.no_grad():
        reading = head.build_prompt(features, embeds, VISUAL, positions)
        rows = head.inputs(features, embeds)[0]
    flat = positions.reshape(axes, -1).tolist()
    wanted: list[Tensor] = []
    at: list[int] = []
    kept = []
    weights = None
    pictures = []
    if head.compressor is not None:
        weights = head.compressor.weights(embeds[0, ~VISUAL].mean(dim=0))
    for start, end in RUNS:
        if head.compressor is not None:
            shown, where = head.compressor(rows[start:end], weights)
            if len(shown) >= end - start:  # seven rows by concat, for instance
                shown, where = rows[start:end], torch.arange(end - start)
            pictures.append((shown, where))
        elif head.looker is not None:
            pictures.append(head.looker(rows[start:end]))
    joined = None
    if head.join is not None:
        joined = head.join(sum(shown[-1] for shown, _ in pictures) / len(pictures))
    for i in range(len(VISUAL)):
        run = next((k for k, (start, end) in enumerate(RUNS) if start <= i < end), None)
        if run is None or not pictures:
            kept.append(len(wanted))
            wanted.append(rows[i] + joined if joined is not None and i >= RUNS[0][1] else rows[i])
            at.append(i)
            continue
        kept.append(-1)
        if i == RUNS[run][0]:
            wanted += list(pictures[run][0])
            at += [i + int(place) for place in pictures[run][1]]
    torch.testing.assert_close(reading.inputs[0], torch.stack(wanted), rtol=1e-4, atol=1e-5)
    assert reading.kept.tolist() == kept
    assert reading.positions.reshape(axes, -1).tolist() == [[row[i] for i in at] for row in flat]
    assert reading.positions.ndim == positions.ndim
    text = int((~VISUAL).sum())
    assert reading.visual_inputs == len(wanted) - text <= int(VISUAL.sum())
    assert (reading.global_feature is None) == (joined is None)
    if mode == "text":
        assert reading.visual_inputs == 0


@pytest.mark.parametrize("options", [{"kind": "specvlm"}, {"kind": "vispec"}])
def test_text_is_not_compressed(options: dict[str, Any]) -> None:
    head = head_of("llama", **options)
    features, embeds, positions = given(head, 1)
    none = torch.zeros_like(VISUAL)
    reading = head.build_prompt(features, embeds, none, positions)
    torch.testing.assert_close(reading.inputs, head.inputs(features, embeds))
    assert reading.global_feature is None and reading.visual_inputs == 0
    assert reading.kept.tolist() == list(range(len(VISUAL)))


def test_the_gate_reads_the_question_alone() -> None:
    head = head_of("llama", kind="specvlm", mode="weighted")
    assert head.compressor is not None and head.compressor.gate is not None
    head.compressor.gate.weight.data.normal_()
    features, embeds, positions = given(head, 1)
    question = torch.arange(len(VISUAL)) < 18
    first = head.build_prompt(features, embeds, VISUAL, positions, question=question)
    embeds[:, 18:] += 1  # an answer, which is not there when a prompt is read
    second = head.build_prompt(features, embeds, VISUAL, positions, question=question)
    torch.testing.assert_close(
        first.inputs[:, : int(first.kept[17])], second.inputs[:, : int(first.kept[17])]
    )
    third = head.build_prompt(features, embeds, VISUAL, positions)
    assert not torch.allclose(first.inputs[:, 3:6], third.inputs[:, 3:6])


BAD: dict[str, dict[str, Any]] = {
    "kind": {"kind": "tail"},
    "mode": {"mode": "squeeze"},
    "ratio": {"ratio": 0.5},
    "weighted": {"mode": "weighted", "ratio": 5.5},
    "whole": {"mode": "convolution", "ratio": 2.5},
    "queries": {"queries": 0},
    "convolution_ratio": {"mode": "concat", "convolution_ratio": 0},
}


@pytest.mark.parametrize("name", BAD)
def test_a_config_checks_itself(name: str) -> None:
    with pytest.raises(OptionError, match=name):
        config(**BAD[name])


def test_a_config_as_json() -> None:
    ours = config(mode="select", pool_ratio=7.0, revision="r", fingerprint="f")
    assert HeadConfig.from_json(ours.to_json()) == ours
    for text in (
        "{",
        "[]",
        "{}",
        ours.to_json().replace('"sage_head": 1', '"sage_head": 2'),
        ours.to_json().replace('"mode"', '"modes"'),
        ours.to_json().replace('"select"', '"selects"'),
        ours.to_json().replace("7.0", '"7"'),
        ours.to_json().replace('"queries": 2', '"queries": true'),
        ours.to_json().replace('"hidden_size": 8,', ""),
    ):
        with pytest.raises(ModelError, match=r"config\.json"):
            HeadConfig.from_json(text)

"""The acceptance predictor of a head: its fit, its effect on planning alone, saving and loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sage_core.distill import acceptance_fit
from sage_core.distill.acceptance_fit import (
    NodeSamples,
    RecordingSage,
    fit_acceptance,
    fit_biases,
    identity_predictor,
)
from sage_core.drafts.head.checkpoint import load_head, placed, save_head
from sage_core.drafts.head.config import CONFIG
from sage_core.drafts.head.init import new_head
from sage_core.drafts.head.module import Head
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import ModelError, OptionError
from sage_core.models.catalog import BUNDLED_HEAD
from sage_core.pair_loading import LoadedPair, load_pair
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policies import parse
from sage_core.trees.policies.sage.networks import MAX_LOGIT, Parent, planner_networks
from sage_core.trees.policy import BIASES, Growth, Level, TreePlanner
from tests.core import distill_runs
from tests.core.test_exactness import assert_exact
from tests.tiny import build_pair, make_inputs
from tests.tiny.heads import good_head

COSTS = Costs.linear(1.0, 0.02, 0.12)
SIZE, RANKS = 3, 6


@pytest.fixture(scope="module")
def pair() -> LoadedPair:
    return load_pair(draft=BUNDLED_HEAD, device="cpu")


@pytest.fixture(scope="module")
def prompts(pair: LoadedPair) -> list[dict[str, Any]]:
    from training.world.inputs import items

    return [pair.family.prepare(shown.media, shown.prompt) for shown in items(6, seed=5)]


def nodes(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, logits and accepted ranks of nodes whose first feature decides the acceptance of
    the first candidate; some have fewer candidates than others."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, SIZE)) * [1.0, 5.0, 0.1] + [0.0, 2.0, 0.0]
    logits = rng.normal(size=(count, RANKS)) - np.arange(RANKS)
    logits[rng.random(count) < 0.3, 4:] = -np.inf
    first = rng.random(count) < 1 / (1 + np.exp(-(logits[:, 0] + 2 * features[:, 0] - 1)))
    return features, logits, np.where(first, 0, rng.integers(-1, 4, count))


def loss_of(
    weight: torch.Tensor, bias: torch.Tensor, given: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> torch.Tensor:
    """Summed cross-entropy, by a plain loop over nodes and candidates."""
    features, logits, ranks = (torch.from_numpy(one) for one in given)
    losses = []
    for x, row, rank in zip(features, logits, ranks.tolist(), strict=True):
        biases = weight @ x + bias
        for place, logit in enumerate(row):
            if torch.isfinite(logit):
                odds = logit + biases[min(place, BIASES - 1)]
                wanted = torch.tensor(float(place == rank), dtype=torch.float64)
                losses.append(nn.functional.binary_cross_entropy_with_logits(odds, wanted))
    return torch.stack(losses).sum()


@pytest.mark.parametrize("ridge", [1.0, 100.0])
def test_the_fit_minimizes_the_plain_loss(ridge: float) -> None:
    given = nodes(40)
    weight, bias = fit_biases(*given, ridge=ridge)
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    deviation = torch.from_numpy(given[0]).std(dim=0)
    penalty = 0.5 * ridge * (weight * deviation).square().sum()
    (loss_of(weight, bias, given) + penalty).backward()
    assert weight.grad is not None and bias.grad is not None
    assert float((weight.grad / deviation).abs().max()) < 1e-2
    assert float(bias.grad.abs().max()) < 1e-2


def test_the_fit_generalizes_to_other_nodes() -> None:
    weight, bias = fit_biases(*nodes(3000))
    others = nodes(400, seed=1)
    before = loss_of(torch.zeros_like(weight), torch.zeros_like(bias), others)
    assert float(loss_of(weight, bias, others)) < 0.9 * float(before)
    assert weight[0].abs().argmax() == 0  # the informative feature


@given(
    st.integers(1, 3),
    st.integers(1, RANKS),
    st.lists(st.floats(-9, 9), min_size=BIASES, max_size=BIASES),
)
def test_biases_are_added_by_rank(rows: int, width: int, biases: list[float]) -> None:
    network = planner_networks(RANKS)[0]
    probs = [[0.6 / (1 + rank) for rank in range(width)]] * rows
    given = (2, probs, [Parent(0.8, 1)] * rows, 0.5, 0.9)
    plain, _ = network(*given)
    logits, _ = network(*given, np.array([biases] * rows, np.float32))
    for one, other in zip(plain, logits, strict=True):
        for rank, (before, after) in enumerate(zip(one, other, strict=True)):
            wanted = min(MAX_LOGIT, max(-MAX_LOGIT, before + biases[min(rank, BIASES - 1)]))
            if abs(before) < MAX_LOGIT:
                assert after == pytest.approx(wanted, abs=1e-4)


def head_with_wrong_predictor(family: str, scale: float) -> Head:
    """A head that is right at times, with a random acceptance predictor."""
    target = build_pair(family).target
    head = good_head(target, "head")
    torch.manual_seed(1)
    head.acceptance = nn.Linear(head.config.hidden_size, BIASES)
    with torch.no_grad():
        head.acceptance.weight.mul_(scale)
    return placed(head, target)


@settings(max_examples=6, deadline=None)
@given(st.floats(0.1, 1000.0), st.sampled_from(["llama", "qwen2_5_vl"]))
def test_output_does_not_depend_on_the_predictor(scale: float, family: str) -> None:
    head = head_with_wrong_predictor(family, scale)
    target = build_pair(family).target
    inputs = make_inputs(target, family, "text", length=9)
    assert_exact(target, head, "sage", inputs, max_new_tokens=24)


@pytest.mark.parametrize("policy", ["chain", "static", "sage"])
def test_only_a_policy_that_asks_gets_biases(
    pair: LoadedPair, prompts: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    planner, given = type(parse(policy).planner()), []
    grow = planner.grow

    def recorded(self: TreePlanner, level: Level) -> Growth:
        given.append(level.acceptance is not None)
        return grow(self, level)

    monkeypatch.setattr(planner, "grow", recorded)
    decoder = SpeculativeDecoder(pair.target, pair.draft, policy, costs=COSTS)
    decoder.generate(**prompts[0], max_new_tokens=8)
    assert given and set(given) == {policy == "sage"}


def head_without_predictor(pair: LoadedPair) -> Head:
    """The bundled head without its acceptance predictor."""
    head = new_head(pair.target, name="sage-tiny")
    head.load_state_dict(pair.draft.state_dict(), strict=False)
    return placed(head, pair.target)


def test_the_bundled_predictor_lowers_the_loss(
    pair: LoadedPair, prompts: list[dict[str, Any]]
) -> None:
    """On texts that it was not fitted to."""
    samples, predictor, head = NodeSamples(), pair.draft.acceptance, head_without_predictor(pair)
    head.acceptance = identity_predictor(head)
    decoder = SpeculativeDecoder(pair.target, head, RecordingSage(samples=samples), costs=COSTS)
    for prompt in prompts:
        decoder.generate(**prompt, max_new_tokens=96)
    features = np.stack(samples.features).astype(np.float64)
    nodes = features, np.stack(samples.logits), np.array(samples.ranks)
    weight, bias = predictor.weight.double(), predictor.bias.double()
    without = loss_of(torch.zeros_like(weight), torch.zeros_like(bias), nodes)
    assert float(loss_of(weight, bias, nodes)) < 0.85 * float(without)


def test_the_predictor_is_fitted_to_texts_and_saved(
    pair: LoadedPair, prompts: list[dict[str, Any]], tmp_path: Path
) -> None:
    head = head_without_predictor(pair)
    assert fit_acceptance(pair.target, head, prompts[:1], 8) == 0
    assert head.acceptance is None and not head.config.acceptance  # too few nodes

    count = fit_acceptance(pair.target, head, iter(prompts), 96, max_nodes=220)
    assert 200 <= count < 320
    assert head.config.acceptance and isinstance(head.acceptance, nn.Linear)
    save_head(head, tmp_path)
    again = load_head(tmp_path, pair.target)
    feature = torch.randn(2, head.config.hidden_size)
    assert again.acceptance is not None
    assert torch.equal(again.acceptance(feature), head.acceptance(feature))


def test_a_failure_while_fitting_leaves_the_head_unchanged(pair: LoadedPair) -> None:
    before = pair.draft.acceptance
    with pytest.raises(OptionError):
        fit_acceptance(pair.target, pair.draft, [{}], 8)
    assert pair.draft.acceptance is before


@pytest.mark.parametrize(("value", "works"), [(None, True), (1, False), ("yes", False)])
def test_heads_saved_without_the_field_still_load(
    pair: LoadedPair, tmp_path: Path, value: Any, works: bool
) -> None:
    head = placed(new_head(pair.target, name="sage-tiny"), pair.target)
    save_head(head, tmp_path)
    saved = json.loads((tmp_path / CONFIG).read_text())
    assert saved.pop("acceptance") is False
    if value is not None:
        saved["acceptance"] = value
    (tmp_path / CONFIG).write_text(json.dumps(saved))
    if works:
        assert load_head(tmp_path, pair.target).acceptance is None
        return
    with pytest.raises(ModelError, match="acceptance: expected `bool`"):
        load_head(tmp_path, pair.target)


def test_a_distilled_head_has_a_predictor_and_its_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance_fit, "_MIN_NODES", 4)
    monkeypatch.setattr("sage_core.distill.run.TIMED", 1)
    target, pictures = distill_runs.save_data(tmp_path)
    output = tmp_path / "head"
    report, _ = distill_runs.train(target, pictures, output, kind="head")
    assert report is not None and report.acceptance_nodes >= 4
    assert json.loads((output / CONFIG).read_text())["acceptance"] is True
    again, _ = distill_runs.train(target, pictures, output, kind="head", steps=6, resume=True)
    assert again is not None and again.steps == 6
    load_pair(target, output, device="cpu")

"""Recorded drafts: what is replayed is what the engine would have done."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.replay import fit, simulate
from benchmarks.replay.record import BEAM, LEVELS, RANKS, Recorded, Recording, load, save
from benchmarks.replay.walk import walk
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.models.catalog import BUNDLED_DRAFT, BUNDLED_HEAD
from sage_core.pair_loading import LoadedPair, load_pair
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policies import parse
from sage_core.trees.policies.sage.networks import Weights
from sage_core.trees.steps import Step

COSTS = Costs.linear(1.0, 0.02, 0.12)
NEW = 40


@pytest.fixture(scope="module", params=[BUNDLED_DRAFT, BUNDLED_HEAD])
def pair(request: pytest.FixtureRequest) -> LoadedPair:
    return load_pair(draft=request.param, device="cpu")


@pytest.fixture(scope="module")
def inputs(pair: LoadedPair) -> dict[str, object]:
    from training.world.inputs import items

    shown = next(iter(items(1, seed=5)))
    return pair.family.prepare(shown.media, shown.prompt)


@pytest.fixture(scope="module")
def recording(pair: LoadedPair, inputs: dict[str, object]) -> Recording:
    policy = Recorded()
    decoder = SpeculativeDecoder(pair.target, pair.draft, policy, costs=COSTS)
    output = decoder.generate(**inputs, max_new_tokens=NEW + LEVELS)
    prompt = inputs["input_ids"].shape[1]  # type: ignore[attr-defined]
    ids = output.sequences[0, prompt:].numpy().astype(np.int32)
    return Recording("one", ids[: len(policy.kept) + 1], tuple(policy.kept))


def test_a_recording_is_kept_whole(recording: Recording, tmp_path: Path) -> None:
    twice = [recording, Recording("two", recording.ids[:5], recording.positions[:4])]
    save(tmp_path / "file.npz", twice)
    again = load(tmp_path / "file.npz")
    assert [one.name for one in again] == ["one", "two"]
    for before, after in zip(twice, again, strict=True):
        assert np.array_equal(before.ids, after.ids)
        for a, b in zip(before.positions, after.positions, strict=True):
            assert np.array_equal(a.tokens, b.tokens) and np.array_equal(a.probs, b.probs)
            assert np.array_equal(a.parents, b.parents)
            assert (a.acceptance is None) == (b.acceptance is None)
            if a.acceptance is not None and b.acceptance is not None:
                assert np.array_equal(a.acceptance, b.acceptance) and a.acceptance.any()
    position = recording.positions[0]
    assert position.tokens.shape[1:] == (BEAM, RANKS)
    assert (np.diff(position.probs[0, 0]) <= 0).all()


WIDE = ("eagle2",)


@pytest.mark.parametrize(
    "policy",
    ["autoregressive", "chain", "sage:beam=1,k=6,dmax=24", "sage:beam=4,k=6,dmax=4", *WIDE],
)
def test_a_replayed_text_is_the_engines(
    pair: LoadedPair, inputs: dict[str, object], recording: Recording, policy: str
) -> None:
    """Step by step: nodes, draft passes and tokens committed."""
    decoder = SpeculativeDecoder(pair.target, pair.draft, policy, costs=COSTS)
    steps: list[Step] = []
    for step in decoder.stream(**inputs, max_new_tokens=NEW + LEVELS):
        steps.append(step)
        if sum(len(one.tokens) for one in steps) > NEW:
            break
    rounds = walk(recording, parse(policy), COSTS)[: len(steps) - 1]
    # A head's levels are flatter: of wide ones not every node that is expanded is recorded, and
    # from there on both may part.
    known = list(takewhile(lambda one: not one.missing, rounds))
    wide = pair.draft_id == BUNDLED_HEAD and policy in WIDE
    assert known if wide else len(known) == len(rounds)
    told = [(len(step.tree), step.draft_passes, len(step.tokens)) for step in steps[1:]]
    assert [(one.nodes, len(one.rows), one.committed) for one in known] == told[: len(known)]


def test_totals_are_those_of_the_walk(recording: Recording) -> None:
    policy = parse("chain:length=5")
    twice = simulate.replayed([recording, recording], policy, COSTS)
    rounds = walk(recording, policy, COSTS)
    assert (twice.steps, twice.missing) == (2 * len(rounds), 0)
    assert twice.tokens == 2 * sum(one.committed for one in rounds)
    assert twice.passes == twice.nodes == 2 * sum(len(one.rows) for one in rounds)


def test_a_row_of_the_report_adds_up(recording: Recording) -> None:
    row = simulate.simulate([recording], [(0.12, 0.02)], "sage")[0]
    assert row["ratio"] == pytest.approx(row["sage"] / row["best_rate"], abs=2e-3)
    assert row["best_rate"] == pytest.approx(max(row["rivals"].values()), abs=1e-3)
    assert row["oracle"] >= 1


def test_networks_learn_what_is_accepted(recording: Recording) -> None:
    samples = fit.gather([recording]).joined()
    weights, loss = fit.train(samples[0], samples[1], seed=0, steps=200)
    share = samples[1].mean()
    constant = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    assert set(weights) == set(Weights._fields)
    assert loss < 0.7 * constant

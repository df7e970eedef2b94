"""The cost-aware policy: what it keeps, what it spends, what it learns, and when it gives up."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.replay.record import LEVELS, Position, Recording
from benchmarks.replay.walk import Round, oracle, reachable, walk, walk_after
from sage_core.errors import OptionError
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policies import parse
from sage_core.trees.policies.sage.networks import (
    ConfidentLevels,
    Node,
    Parent,
    fitted_weights,
    planner_networks,
)
from sage_core.trees.policies.sage.platt_scaling import PlattScaling
from sage_core.trees.policies.sage.policy import worth_verifying
from sage_core.trees.policies.sage_paper import confidence
from sage_core.trees.policy import BIASES, Growth, Level
from sage_core.trees.tree import ROOT, TreeBuilder
from tests.core.reference_networks import (
    candidate_features,
    confidences,
    logits_of,
    node_features,
)

BEAM, RANKS = 10, 10


def recording(right: float, length: int = 240, seed: int = 0) -> Recording:
    """A text whose draft's first choice is right with a chance, its second in half of the rest.

    A draft that is right is surer of it. Every node has candidates of its own, all distinct.
    """
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 50, length).astype(np.int32)
    return Recording("text", ids, tuple(position(rng, ids, i, right) for i in range(length - 1)))


def position(rng: np.random.Generator, ids: np.ndarray, at: int, right: float) -> Position:
    shape = (LEVELS, BEAM, RANKS)
    tokens, probs = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    parents = np.full((LEVELS, BEAM, 2), -1, np.int16)
    on_text: int | None = 0
    above = np.ones(1)
    for level in range(LEVELS):
        rows = len(above)
        tokens[level, :rows] = 1000 + np.arange(RANKS)
        sure = rng.random(rows) < 0.7
        if on_text is not None and at + 1 + level < len(ids):
            draw = rng.random()
            sure[on_text] = draw < right
            rank = 0 if draw < right else 1 if draw < (1 + right) / 2 else -1
            if rank >= 0:
                tokens[level, on_text, rank] = ids[at + 1 + level]
        else:
            rank = -1
        falling = np.where(sure[:, None], 0.03, 0.4) ** np.arange(1, RANKS + 1)
        probs[level, :rows] = falling / falling.sum(axis=1, keepdims=True)
        here = above[:, None] * probs[level, :rows]
        if level + 1 == LEVELS:
            break
        best = np.sort(np.argsort(-here.ravel(), kind="stable")[:BEAM])
        places = [divmod(int(i), RANKS) for i in best]
        parents[level + 1, : len(places)] = places
        above = here.ravel()[best]
        followed = (on_text, rank) if rank >= 0 else None
        on_text = places.index(followed) if followed in places else None
    return Position(tokens, probs, parents)


def totals(rounds: list[Round], costs: Costs) -> tuple[float, float, float, float]:
    """Tokens per second, and accepted length, nodes and draft passes per step."""
    tokens = sum(one.committed for one in rounds)
    seconds = sum(one.seconds(costs) for one in rounds)
    steps = len(rounds)
    nodes, passes = sum(one.nodes for one in rounds), sum(len(one.rows) for one in rounds)
    return tokens / seconds, tokens / steps - 1, nodes / steps, passes / steps


@given(
    st.lists(st.floats(0.001, 0.999), min_size=1, max_size=9),
    st.lists(st.integers(0, 100), min_size=9, max_size=9),
    st.floats(0.01, 2),
    st.floats(0.001, 0.3),
)
def test_no_other_tree_is_worth_more(
    factors: list[float], above: list[int], rate: float, slope: float
) -> None:
    parents = [above[i] % (i + 1) - 1 for i in range(len(factors))]
    accepted = np.zeros(len(factors))
    for i, factor in enumerate(factors):
        accepted[i] = factor * (1.0 if parents[i] < 0 else accepted[parents[i]])
    seconds = 1 + slope * np.sqrt(np.arange(len(factors) + 1))  # any curve, not only a line
    kept = worth_verifying(accepted, seconds, rate).tolist()
    assert all(parents[node] < 0 or parents[node] in kept for node in kept)

    def worth(nodes: tuple[int, ...]) -> float:
        return float(accepted[list(nodes)].sum() - rate * seconds[len(nodes)])

    best = max(
        worth(nodes)
        for size in range(len(factors) + 1)
        for nodes in combinations(range(len(factors)), size)
        if all(parents[node] < 0 or parents[node] in nodes for node in nodes)
    )
    assert worth(tuple(kept)) == pytest.approx(best)


def test_the_dearer_a_node_or_a_pass_the_fewer_of_them() -> None:
    text = recording(0.8)
    by_node = [
        totals(walk(text, parse("sage"), costs), costs)[2]
        for costs in (Costs.linear(1, node, 0.05) for node in (0.001, 0.02, 0.1))
    ]
    assert by_node[0] > 1.3 * by_node[1] > 1.3 * 1.3 * by_node[2]
    by_pass = [
        totals(walk(text, parse("sage"), costs), costs)[3]
        for costs in (Costs.linear(1, 0.005, draft) for draft in (0.02, 0.3, 1.5))
    ]
    assert by_pass[0] > 1.2 * by_pass[1] > 1.2 * 1.2 * by_pass[2]


@pytest.mark.parametrize("draft", [0.02, 0.1, 0.3, 1.0])
def test_a_useless_draft_costs_little(draft: float) -> None:
    """In all the work of a text, within 3% of no draft at all; a good one is found again."""
    costs = Costs.linear(1.0, 0.02, draft)
    rate, *_ = totals(walk(recording(-1.0, 600), parse("sage"), costs), costs)
    assert rate > 0.97


@pytest.mark.parametrize("draft", [0.02, 0.13, 0.3])
def test_a_draft_that_was_useless_is_tried_less_in_the_next_text(draft: float) -> None:
    """Within 3% of no draft even over 48 tokens, and a good draft is found again in as many."""
    costs = Costs.linear(1.0, 0.02, draft)
    learned: dict[str, float] = {}
    rates = []
    for seed in range(4):
        rate, learned = text_after(learned, recording(-1.0, 49, seed), costs)
        rates.append(rate)
    assert rates[0] > 0.9
    assert min(rates[1:]) > 0.97
    good = [recording(0.9, 49, seed) for seed in range(90, 96)]
    fresh = [text_after({}, text, costs)[0] for text in good]
    once, learned = text_after(learned, good[0], costs)
    again = [text_after(learned, text, costs)[0] for text in good]
    assert once > 0.55 * fresh[0]
    assert sum(again) > 0.9 * sum(fresh)


def test_texts_too_short_to_find_the_rate_begin_with_that_of_the_ones_before() -> None:
    costs, good = Costs.linear(1.0, 0.02, 0.13), [recording(0.9, 49, seed) for seed in range(40)]
    fresh = [text_after({}, text, costs)[0] for text in good]
    learned: dict[str, float] = {}
    later = []
    for text in good:
        rate, learned = text_after(learned, text, costs)
        later.append(rate)
    assert sum(1 / rate for rate in later) < 0.97 * sum(1 / rate for rate in fresh)  # in time


def text_after(
    learned: dict[str, float], text: Recording, costs: Costs
) -> tuple[float, dict[str, float]]:
    """Tokens per second of a text that starts from ``learned``, and the state after it."""
    rounds, known = walk_after(learned, text, parse("sage"), costs)
    return totals(rounds, costs)[0], known


@given(st.dictionaries(st.sampled_from(list(parse("sage").planner().learned())), st.floats()))
def test_whatever_was_learned_leaves_a_policy_that_works(learned: dict[str, float]) -> None:
    known = {name: value for name, value in learned.items() if np.isfinite(value)}
    rate, _ = text_after(known, recording(0.8, 30), Costs.linear(1.0, 0.02, 0.1))
    assert rate > 0.4


def test_a_draft_that_gets_better_is_noticed() -> None:
    bad, good = recording(-1.0, 300), recording(0.95, 300, seed=1)
    joined = Recording("both", np.concatenate([bad.ids, good.ids]), bad.positions + good.positions)
    # The position between the two drafts nothing that is right, as those before it.
    joined = Recording("both", joined.ids, (*bad.positions, bad.positions[-1], *good.positions))
    costs = Costs.linear(1.0, 0.01, 0.1)
    rounds = walk(joined, parse("sage"), costs)
    early = [one for one in rounds if 100 < one.position < 250]
    late = [one for one in rounds if one.position > 450]
    assert sum(len(one.rows) for one in early) < 0.2 * len(early)
    assert sum(one.committed for one in late) > 3 * len(late)


def test_nothing_is_drawn_by_chance() -> None:
    text = recording(0.7)
    costs = Costs.linear(1, 0.01, 0.1)
    assert walk(text, parse("sage"), costs) == walk(text, parse("sage"), costs)


@pytest.mark.parametrize("option", ["nmax=8", "dmax=2", "beam=1", "k=2"])
def test_limits_are_kept(option: str) -> None:
    rounds = walk(recording(0.8), parse(f"sage:{option}"), Costs.linear(1, 0.0, 0.001))
    name, _, value = option.partition("=")
    nodes = max(one.nodes for one in rounds)
    depth = max(len(one.rows) for one in rounds)
    rows = max(row for one in rounds for row in one.rows)
    assert {"nmax": nodes, "dmax": depth, "beam": rows, "k": 2}[name] <= int(value)


@pytest.mark.parametrize("text", ["sage:nmax=0", "sage:k=1", "sage:beam=0", "sage:theta=0.1"])
def test_options_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(OptionError):
        parse(text)


def test_the_oracle_is_never_slower() -> None:
    text = recording(0.7)
    for draft, node in ((0.02, 0.001), (0.3, 0.02)):
        costs = Costs.linear(1, node, draft)
        seconds, tokens = oracle(text, costs)
        for policy in ("sage", "chain", "static", "autoregressive"):
            assert totals(walk(text, parse(policy), costs), costs)[0] <= tokens / seconds + 1e-9
    assert oracle(recording(-1.0), Costs.linear(1, 0.1, 0.1))[0] == pytest.approx(239)


def test_what_the_text_reaches_is_counted_along_its_own_path() -> None:
    text = recording(1.0, 60)
    assert reachable(text, 0) == LEVELS
    assert reachable(text, 55) == 4
    assert reachable(recording(-1.0), 0) == 0


@pytest.mark.parametrize("start", [-3.0, 0.0, 3.0])
def test_a_prediction_learns_what_happens(start: float) -> None:
    correction, rng = PlattScaling(), np.random.default_rng(0)
    for _ in range(600):
        correction.update([start], 0 if rng.random() < 0.3 else -1)
    assert correction.probabilities([start])[0] == pytest.approx(0.3, abs=0.1)


@given(st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 900))
def test_recalled_state_is_discounted(scale: float, bias: float, seen: float) -> None:
    correction, plain = PlattScaling(), PlattScaling()
    correction.recall({"scale": scale, "bias": bias, "seen": seen})
    found = correction.state
    assert abs(found["bias"]) <= 6 and 0.6 <= found["scale"] <= 1.6 and 0 <= found["seen"] <= 6
    assert abs(found["bias"]) <= abs(bias)
    for _ in range(40):
        correction.discount()
    np.testing.assert_allclose(
        correction.probabilities([-2, 0.5]), plain.probabilities([-2, 0.5]), atol=1e-6
    )


UNIT = st.floats(0, 1)


@given(
    st.lists(
        st.tuples(st.lists(UNIT, min_size=6, max_size=6), UNIT, st.integers(0, 9)), min_size=1
    ),
    st.integers(1, 14),
    UNIT,
    UNIT,
)
def test_candidate_logits_equal_the_plain_form(
    rows: list[tuple[list[float], float, int]], depth: int, root: float, recent: float
) -> None:
    probs = np.sort(np.array([row for row, _, _ in rows]), axis=1)[:, ::-1] / 6
    above = np.array([accepted for _, accepted, _ in rows])
    ranks = np.array([rank for _, _, rank in rows])
    fast = planner_networks(6)[0]
    parents = [Parent(accepted, rank) for _, accepted, rank in rows]
    logits, alphas = fast(depth, probs.tolist(), parents, root, recent)
    plain = confidences(probs)
    held = probs.sum(axis=1) > 1e-3  # where nothing is likely, nothing is known of the entropy
    np.testing.assert_allclose(np.array(alphas)[held], plain[held], atol=1e-3)
    features = candidate_features(depth, probs, np.array(alphas), above, ranks, root, recent)
    wanted = logits_of(fitted_weights()[0], features).reshape(probs.shape)
    np.testing.assert_allclose(logits, wanted, atol=1e-4)


@given(
    st.lists(st.tuples(UNIT, UNIT, UNIT, st.integers(0, 9)), min_size=1),
    st.integers(0, 14),
    UNIT,
    UNIT,
    UNIT,
)
def test_node_logits_equal_the_plain_form(
    rows: list[tuple[float, float, float, int]],
    depth: int,
    root: float,
    recent: float,
    lately: float,
) -> None:
    fast = planner_networks(10)[1](depth, [Node(*row) for row in rows], root, recent, lately)
    probs, alphas, accepted, ranks = (np.array(column) for column in zip(*rows, strict=True))
    features = node_features(depth, probs, alphas, accepted, ranks, root, recent, lately)
    np.testing.assert_allclose(fast, logits_of(fitted_weights()[1], features), atol=1e-4)


@given(
    st.integers(1, 20),
    st.integers(0, 9),
    UNIT,
    UNIT,
    UNIT,
    st.floats(0.97, 1),
    st.floats(-0.09, 0.09),
)
def test_confident_levels_are_close_to_the_plain_form(
    depth: int, far: int, root: float, recent: float, lately: float, prob: float, off: float
) -> None:
    def chance(logit: float) -> float:
        return 1 / (1 + math.exp(-logit))

    levels = ConfidentLevels(*planner_networks(10), 10)
    levels.begin(root + recent, lately)
    for own, moved, close in [(0.995, 0.0, 1e-3), (prob, off, 0.1)]:
        probs = np.array([[own, *[(1 - own) / 9] * 9]])
        alphas, rank = confidences(probs), np.zeros(1, np.int64)
        above = np.array([min(1.0, math.exp(-0.2 * far + moved))])
        features = candidate_features(depth, probs, alphas, above, rank, root, recent)
        accepted = levels.accepted(depth, float(above[0]))
        assert (
            abs(chance(accepted) - chance(float(logits_of(fitted_weights()[0], features)[0])))
            < close
        )
        given_node = depth, probs[0, :1], alphas, above, rank, root, recent, lately
        served = levels.hits(depth, float(above[0]))
        wanted = float(logits_of(fitted_weights()[1], node_features(*given_node))[0])
        assert abs(chance(served) - chance(wanted)) < close


def below(prob: float, told: float, node: float, dmax: int) -> Growth:
    """What becomes of a second level with one row, whose first candidate has a probability."""
    planner = parse(f"sage:dmax={dmax}").planner()
    planner.calibrate(Costs.linear(1.0, node, 0.05))
    planner.plan()
    probs = np.array([[0.9, *[0.1 / 9] * 9]], np.float32)
    tree = TreeBuilder()
    growth = planner.grow(Level(1, [ROOT], probs, tree))
    count = len(growth.parents)
    new = tree.add([ROOT] * count, range(count), [0.5] * count, growth.ranks.tolist())
    frontier = [node for node, more in zip(new, growth.expand, strict=True) if more][:1]
    probs = np.array([[prob, *[(1 - prob) / 9] * 9]], np.float32)
    return planner.grow(Level(2, frontier, probs, tree, np.full((1, BIASES), told, np.float32)))


@pytest.mark.parametrize(
    ("prob", "told", "node", "dmax", "alone", "deeper"),
    [
        (0.99, 3.0, 0.02, 8, True, True),
        (0.99, 3.0, 0.02, 2, True, False),
        (0.99, 3.0, 1e-7, 8, False, True),  # nodes cost nothing: others are taken as well
        (0.99, -4.0, 0.002, 8, False, True),  # confident, with a negative acceptance bias
        (0.6, 0.0, 0.002, 8, False, True),
    ],
)
def test_a_confident_candidate_goes_alone_where_others_are_not_worth_a_node(
    prob: float, told: float, node: float, dmax: int, alone: bool, deeper: bool
) -> None:
    growth = below(prob, told, node, dmax)
    assert growth.ranks[0] == 0 and (len(growth.ranks) == 1) == alone
    assert bool(growth.expand.any()) == deeper


@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=10))
def test_entropy_is_the_papers(values: list[float]) -> None:
    probs = np.sort(np.array(values))[::-1]
    assert confidences(probs[None])[0] == pytest.approx(confidence(probs), abs=1e-9)

"""EAGLE-2, the best fixed tree and Spec-LLaVA's tree, each against a slow and obvious reference."""

from __future__ import annotations

import json
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.errors import OptionError
from sage_core.trees.policies import optimal_static, parse
from sage_core.trees.policies.eagle2 import Eagle2
from sage_core.trees.policies.spec_llava import SpecLlava
from tests.core.test_policies import Draft, RankPath, grow_whole, random_draft

# EAGLE-2


def cumulative(path: RankPath, draft: Draft) -> float:
    """The product of draft probabilities along a path, from the root down."""
    value = 1.0
    for level in range(len(path)):
        value *= draft(path[:level])[path[level]]
    return value


def literal_eagle2(o: Eagle2, draft: Draft) -> set[RankPath]:
    """Level by level every child of the beam; then the best of everything drafted."""
    beam: list[RankPath] = [()]
    everything: list[RankPath] = []
    for _ in range(o.depth):
        level = [(*path, rank) for path in beam for rank in range(min(o.k, len(draft(path))))]
        level = [path for path in level if cumulative(path, draft) > 0]
        everything += level
        beam = sorted(level, key=lambda path: -cumulative(path, draft))[: o.beam]
    return set(sorted(everything, key=lambda path: -cumulative(path, draft))[: o.nodes])


@st.composite
def eagle2_options(draw: st.DrawFn) -> Eagle2:
    return Eagle2(
        depth=draw(st.integers(1, 5)),
        beam=draw(st.integers(1, 6)),
        k=draw(st.integers(1, 6)),
        nodes=draw(st.sampled_from((1, 2, 5, 17, 60, 200))),
    )


@given(eagle2_options(), st.integers(0, 999), st.sampled_from((0.05, 0.3, 2.0)))
def test_eagle2_is_its_beam_search_ranked_as_a_whole(
    o: Eagle2, seed: int, sharpness: float
) -> None:
    draft = random_draft(seed, 8, sharpness)
    tree = grow_whole(o.planner(), draft)
    assert set(tree) == literal_eagle2(o, draft)
    assert len(set(tree)) == len(tree) <= o.nodes


@pytest.mark.parametrize("nodes", [1, 4, 12, 50])
@pytest.mark.parametrize("seed", range(5))
def test_with_a_beam_for_all_eagle2_keeps_the_best_of_the_full_tree(seed: int, nodes: int) -> None:
    draft, k, depth = random_draft(seed, 4, 0.5), 3, 4
    whole = [p for length in range(1, depth + 1) for p in product(range(k), repeat=length)]
    best = sorted(whole, key=lambda path: -cumulative(path, draft))[:nodes]
    tree = grow_whole(Eagle2(depth, k**depth, k, nodes).planner(), draft)
    assert set(tree) == set(best)


def test_equal_probabilities_are_ranked_in_order() -> None:
    """Shallow before deep, then in order of their parents, then by rank: the same every time."""

    def even(path: RankPath) -> np.ndarray:
        return np.full(2, 0.5)

    assert grow_whole(Eagle2(3, 2, 2, 4).planner(), even) == [(0,), (1,), (0, 0), (0, 1)]

    def certain(path: RankPath) -> np.ndarray:
        return np.array([1.0, 0.0, 0.0])

    # A child that is certain ranks with its parent: the parent is kept.
    assert grow_whole(Eagle2(5, 3, 3, 3).planner(), certain) == [(0,), (0, 0), (0, 0, 0)]


def test_a_probability_that_rounds_above_one_loses_no_parent() -> None:
    def above_one(path: RankPath) -> np.ndarray:
        return np.array([1.0000001, 0.0])

    for nodes in range(1, 6):
        tree = grow_whole(Eagle2(6, 2, 2, nodes).planner(), above_one)
        assert tree == [(0,) * length for length in range(1, nodes + 1)]


def test_drafting_ends_where_no_deeper_node_can_be_kept() -> None:
    def flat(path: RankPath) -> np.ndarray:
        return np.full(4, 0.25)

    passes: list[RankPath] = []

    def counted(path: RankPath) -> np.ndarray:
        passes.append(path)
        return flat(path)

    assert len(grow_whole(Eagle2(7, 4, 4, 4).planner(), counted)) == 4
    assert max(map(len, passes)) == 1, "the second level is drafted, nothing of it is kept"


# The best fixed tree


def by_dynamic_programming(rates: optimal_static.Rates, nodes: int, depth: int) -> float:
    """The greatest expected accepted length of ``nodes`` nodes, as Sequoia finds it: over the
    sizes of all subtrees."""
    ranks = max(rank + 1 for table in rates.values() for rank in table)

    @cache
    def children(level: int, rank: int, n: int) -> float:
        """Of children of ranks ``rank`` and up at ``level`` with ``n`` nodes in all below them."""
        if n == 0 or level > depth:
            return 0.0 if n == 0 else -np.inf
        if rank == ranks:
            return -np.inf
        rate = rates.get(level, {}).get(rank, 0.0)
        found = [children(level, rank + 1, n)]
        for own in range(1, n + 1):
            with_it = rate * (1 + children(level + 1, 0, own - 1)) if own > 1 else rate
            found.append(with_it + children(level, rank + 1, n - own))
        return max(found)

    return children(1, 0, nodes)


def expected(paths: tuple[RankPath, ...], rates: optimal_static.Rates) -> float:
    return sum(
        float(np.prod([rates[level][rank] for level, rank in enumerate(path, 1)])) for path in paths
    )


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 999))
def test_the_greedy_tree_is_as_good_as_sequoia_s(nodes: int, depth: int, seed: int) -> None:
    drawn = np.random.default_rng(seed).dirichlet(np.full(9, 0.5), size=depth)
    rates = {d: dict(enumerate(row[:8].tolist())) for d, row in enumerate(drawn, 1)}
    paths = optimal_static.best_tree(rates, min(nodes, 8), depth)
    assert len(paths) == min(nodes, 8)
    best = by_dynamic_programming(rates, min(nodes, 8), depth)
    assert expected(paths, rates) == pytest.approx(best)


def test_optimal_static_is_the_best_tree_of_its_table(tmp_path: Path) -> None:
    rates = {1: {0: 0.6, 1: 0.2, 2: 0.1}, 2: {0: 0.5, 1: 0.2}, 3: {0: 0.9}}
    file = tmp_path / "table.json"
    file.write_text(json.dumps({"acceptance": rates, "more": 1}), encoding="utf-8")
    tree = grow_whole(
        parse(f"optimal-static:nodes=4,depth=3,table={file}").planner(), random_draft(1, 14, 1.0)
    )
    assert tree == [(0,), (1,), (0, 0), (0, 0, 0)]


def test_a_table_as_a_benchmark_s_calibration_has_it(tmp_path: Path) -> None:
    rates = {1: {0: 0.1, 9: 0.8}}
    file = tmp_path / "calibration.json"
    held = {"best-static": {"tree": [[0]], "acceptance": optimal_static.rates_to_json(rates)}}
    file.write_text(json.dumps({"assisted": {"setting": "x"}, **held}), encoding="utf-8")
    assert optimal_static.read_rates(file) == rates
    assert parse(f"optimal-static:nodes=2,depth=1,table={file}").paths == ((0,), (9,))


def test_the_shipped_table_is_for_the_bundled_pair() -> None:
    policy = parse("optimal-static")
    assert len(policy.paths) == policy.max_nodes == 25
    assert (0,) * policy.depth in policy.paths
    assert set(policy.paths) == set(grow_whole(policy.planner(), random_draft(3, 14, 1.0)))


TABLES = {
    "missing": None,
    "no json": "depth 1: 0.5",
    "a list": "[0.5, 0.2]",
    "nothing": "{}",
    "no rates": '{"acceptance": {}}',
    "depth 0": '{"acceptance": {"0": {"0": 0.5}}}',
    "a rate above 1": '{"acceptance": {"1": {"0": 1.5}}}',
    "not a number": '{"acceptance": {"1": {"0": NaN}}}',
    "words": '{"acceptance": {"1": {"first": 0.5}}}',
    "no ranks": '{"acceptance": {"1": 0.5}}',
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_bad_tables_are_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "table.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match=str(file)) as caught:
        parse(f"optimal-static:table={file}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "table",
    [
        {"1": {"0": 0.8, "10000000": 0.1}},
        {"1": {"0": 1e308}},
        {"1": {"0": float("nan")}},
        {"1": {"0": "0.8"}},
        {"1": [0.8]},
        {"x": {"0": 0.8}},
        {"0": {"0": 0.8}},
        {"1": {"-1": 0.8}},
    ],
    ids=str,
)
def test_a_table_of_other_numbers_is_refused(tmp_path: Path, table: object) -> None:
    file = tmp_path / "table.json"
    file.write_text(json.dumps({"acceptance": table}))
    with pytest.raises(OptionError, match=str(file)):
        parse(f"optimal-static:table={file}")


# Spec-LLaVA


def literal_spec_llava(o: SpecLlava, draft: Draft) -> set[RankPath]:
    """Node by node: a confident one has children, a child that is not is cut."""
    tree: list[RankPath] = []
    level: list[RankPath] = [()]
    for _ in range(o.depth):
        grown = [
            (*path, rank)
            for path in level
            if cumulative(path, draft) >= o.grow
            for rank in range(min(o.k, len(draft(path))))
            if cumulative((*path, rank), draft) >= o.prune
        ]
        level = sorted(grown, key=lambda path: -cumulative(path, draft))[: o.nodes - len(tree)]
        tree += level
    return set(tree)


@st.composite
def spec_llava_options(draw: st.DrawFn) -> SpecLlava:
    prune = draw(st.sampled_from((0.001, 0.03, 0.2, 0.5)))
    return SpecLlava(
        grow=min(1.0, prune * draw(st.sampled_from((1.0, 2.0, 20.0)))),
        prune=prune,
        k=draw(st.integers(1, 9)),
        depth=draw(st.integers(1, 6)),
        nodes=draw(st.sampled_from((1, 3, 15, 127))),
    )


@given(spec_llava_options(), st.integers(0, 999), st.sampled_from((0.05, 0.3, 2.0)))
def test_spec_llava_grows_while_it_is_confident(o: SpecLlava, seed: int, sharpness: float) -> None:
    draft = random_draft(seed, 8, sharpness)
    tree = grow_whole(o.planner(), draft)
    assert set(tree) == literal_spec_llava(o, draft)
    assert len(set(tree)) == len(tree) <= o.nodes


def test_spec_llava_drafts_nothing_that_the_draft_does_not_believe() -> None:
    assert (
        grow_whole(SpecLlava(prune=0.2, grow=0.2).planner(), lambda path: np.full(9, 1 / 9)) == []
    )
    certain = grow_whole(SpecLlava().planner(), lambda path: np.eye(9)[0])
    assert certain == [(0,) * length for length in range(1, 9)]


BAD = {
    "upside down": ("spec-llava:grow=0.01", "0 < prune <= grow <= 1"),
    "no threshold": ("spec-llava:prune=0", "0 < prune <= grow <= 1"),
    "nan": ("spec-llava:prune=nan", "0 < prune <= grow <= 1"),
    "no tokens": ("spec-llava:k=0", "k must be at least 1"),
    "no level": ("spec-llava:depth=0", "depth must be at least 1"),
    "empty": ("spec-llava:nodes=0", "nodes must be at least 1"),
    "a small tree": ("optimal-static:nodes=20,depth=1", "at most 8 nodes, not 20"),
    "no tree": ("optimal-static:nodes=0", "nodes must be at least 1"),
    "no levels": ("optimal-static:depth=0", "depth must be at least 1"),
    "no depth": ("eagle2:depth=0", "depth must be at least 1"),
    "no beam": ("eagle2:beam=0", "beam must be at least 1"),
    "no children": ("eagle2:k=-1", "k must be at least 1"),
    "no nodes": ("eagle2:nodes=0", "nodes must be at least 1"),
    "unknown": ("eagle2:width=3", "depth, beam, k, nodes"),
}


@pytest.mark.parametrize(("text", "named"), BAD.values(), ids=BAD)
def test_bad_options_are_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)

"""EAGLE-2, the best fixed tree and Spec-LLaVA's tree, each against a slow and obvious reference."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.errors import OptionError
from sage_core.policies import parse
from sage_core.policies.eagle2 import Eagle2
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
    tree = grow_whole(o.shaper(), draft)
    assert set(tree) == literal_eagle2(o, draft)
    assert len(set(tree)) == len(tree) <= o.nodes


@pytest.mark.parametrize("nodes", [1, 4, 12, 50])
@pytest.mark.parametrize("seed", range(5))
def test_with_a_beam_for_all_eagle2_keeps_the_best_of_the_full_tree(seed: int, nodes: int) -> None:
    draft, k, depth = random_draft(seed, 4, 0.5), 3, 4
    whole = [p for length in range(1, depth + 1) for p in product(range(k), repeat=length)]
    best = sorted(whole, key=lambda path: -cumulative(path, draft))[:nodes]
    tree = grow_whole(Eagle2(depth, k**depth, k, nodes).shaper(), draft)
    assert set(tree) == set(best)


def test_equal_probabilities_are_ranked_in_order() -> None:
    """Shallow before deep, then in order of their parents, then by rank: the same every time."""

    def even(path: RankPath) -> np.ndarray:
        return np.full(2, 0.5)

    assert grow_whole(Eagle2(3, 2, 2, 4).shaper(), even) == [(0,), (1,), (0, 0), (0, 1)]

    def certain(path: RankPath) -> np.ndarray:
        return np.array([1.0, 0.0, 0.0])

    # A child that is certain ranks with its parent: the parent is kept.
    assert grow_whole(Eagle2(5, 3, 3, 3).shaper(), certain) == [(0,), (0, 0), (0, 0, 0)]


def test_a_probability_that_rounds_above_one_loses_no_parent() -> None:
    def above_one(path: RankPath) -> np.ndarray:
        return np.array([1.0000001, 0.0])

    for nodes in range(1, 6):
        tree = grow_whole(Eagle2(6, 2, 2, nodes).shaper(), above_one)
        assert tree == [(0,) * length for length in range(1, nodes + 1)]


def test_drafting_ends_where_no_deeper_node_can_be_kept() -> None:
    def flat(path: RankPath) -> np.ndarray:
        return np.full(4, 0.25)

    passes: list[RankPath] = []

    def counted(path: RankPath) -> np.ndarray:
        passes.append(path)
        return flat(path)

    assert len(grow_whole(Eagle2(7, 4, 4, 4).shaper(), counted)) == 4
    assert max(map(len, passes)) == 1, "the second level is drafted, nothing of it is kept"


BAD = {
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

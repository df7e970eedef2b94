"""Token trees: masks, depths, paths and subsets against a slow reference; adversarial shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.trees.tree import ROOT, TokenTree, TreeBuilder


@st.composite
def trees(draw: st.DrawFn, max_nodes: int = 40) -> TokenTree:
    """Any legal tree: parents stand before children, siblings differ in token."""
    n = draw(st.integers(0, max_nodes))
    # A bias of 0 favours the root (stars), of 1 the newest node (chains).
    bias = draw(st.sampled_from((0.0, 0.5, 1.0)))
    parents, tokens = [], []
    for node in range(n):
        low = ROOT if draw(st.floats(0, 1)) >= bias else node - 1
        parents.append(draw(st.integers(min(low, node - 1), node - 1)) if bias else ROOT)
        taken = {tokens[i] for i in range(node) if parents[i] == parents[node]}
        tokens.append(draw(st.integers(0, 60).filter(lambda t, taken=taken: t not in taken)))
    probs = draw(st.lists(st.floats(0.001, 1), min_size=n, max_size=n))
    ranks = draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    return TokenTree(tuple(tokens), tuple(parents), tuple(probs), tuple(ranks))


def walk_up(tree: TokenTree, node: int) -> list[int]:
    """Slow reference: the nodes from ``node`` up to level 1."""
    path = []
    while node != ROOT:
        path.append(node)
        node = tree.parents[node]
    return path


def chain(n: int) -> TokenTree:
    return TokenTree(tuple([7] * n), tuple(range(-1, n - 1)), tuple([0.9] * n), tuple([0] * n))


def star(n: int) -> TokenTree:
    return TokenTree(tuple(range(n)), tuple([ROOT] * n), tuple([0.01] * n), tuple(range(n)))


@given(trees())
def test_depths_paths_and_cumulative_match_a_walk_to_the_root(tree: TokenTree) -> None:
    for node in range(len(tree)):
        up = walk_up(tree, node)
        assert tree.depths[node] == len(up)
        assert tree.path(node) == tuple(reversed(up))
        assert math.isclose(tree.cumulative[node], math.prod(tree.probs[i] for i in up))
    assert tree.depth == max((len(walk_up(tree, node)) for node in range(len(tree))), default=0)
    assert tree.path(ROOT) == ()


@given(trees())
def test_visibility_is_root_ancestors_and_self(tree: TokenTree) -> None:
    n = len(tree)
    expected = np.zeros((n + 1, n + 1), dtype=bool)
    expected[:, 0] = True
    for node in range(n):
        for ancestor in walk_up(tree, node):
            expected[node + 1, ancestor + 1] = True
    assert tree.visibility.dtype == bool
    np.testing.assert_array_equal(tree.visibility, expected)


@given(trees())
def test_children_and_leaves_match_a_search(tree: TokenTree) -> None:
    nodes = range(len(tree))
    for parent in (ROOT, *nodes):
        expected = [node for node in nodes if tree.parents[node] == parent]
        assert tree.children(parent) == tuple(expected)
        for token in range(62):
            carriers = [node for node in expected if tree.tokens[node] == token]
            assert tree.child(parent, token) == (carriers[0] if carriers else None)
    assert tree.leaves() == tuple(node for node in nodes if node not in tree.parents)


@given(trees(), st.data())
def test_subset_keeps_what_is_kept(tree: TokenTree, data: st.DataObject) -> None:
    picked = data.draw(st.sets(st.sampled_from(range(len(tree))))) if len(tree) else set()
    kept = sorted({node for leaf in picked for node in walk_up(tree, leaf)})
    small = tree.subset(reversed(kept))
    assert len(small) == len(kept)
    for new, old in enumerate(kept):
        assert small.tokens[new] == tree.tokens[old]
        assert small.probs[new] == tree.probs[old]
        assert small.ranks[new] == tree.ranks[old]
        assert tuple(kept[i] for i in small.path(new)) == tree.path(old)


@given(trees(), st.data())
def test_subset_refuses_an_orphan(tree: TokenTree, data: st.DataObject) -> None:
    inner = sorted(set(tree.parents) - {ROOT})
    if not inner:
        return
    lost = data.draw(st.sampled_from(inner))
    with pytest.raises(ValueError, match="lose its parent"):
        tree.subset(node for node in range(len(tree)) if node != lost)


@given(trees())
def test_a_builder_gives_the_same_tree_level_by_level(tree: TokenTree) -> None:
    builder = TreeBuilder()
    place = {ROOT: ROOT}
    for level in range(1, tree.depth + 1):
        old = [node for node in range(len(tree)) if tree.depths[node] == level]
        new = builder.add(
            [place[tree.parents[i]] for i in old],
            [tree.tokens[i] for i in old],
            [tree.probs[i] for i in old],
            [tree.ranks[i] for i in old],
        )
        place |= dict(zip(old, new, strict=True))
    grown = builder.freeze()
    assert len(builder) == len(grown) == len(tree)
    for old, new in place.items():
        if old != ROOT:
            assert [grown.tokens[i] for i in grown.path(new)] == [
                tree.tokens[i] for i in tree.path(old)
            ]
            assert math.isclose(builder.cumulative[new], tree.cumulative[old])


@pytest.mark.parametrize("n", [1, 2, 64, 1500])
def test_a_deep_chain(n: int) -> None:
    tree = chain(n)
    assert tree.depths == tuple(range(1, n + 1))
    assert tree.path(n - 1) == tuple(range(n))
    assert tree.leaves() == (n - 1,)
    np.testing.assert_array_equal(tree.visibility, np.tri(n + 1, dtype=bool))


@pytest.mark.parametrize("n", [1, 2, 64, 1500])
def test_a_star(n: int) -> None:
    tree = star(n)
    assert tree.depth == 1
    assert tree.leaves() == tree.children(ROOT) == tuple(range(n))
    expected = np.eye(n + 1, dtype=bool)
    expected[:, 0] = True
    np.testing.assert_array_equal(tree.visibility, expected)


def test_the_empty_tree_is_the_root_alone() -> None:
    tree = TokenTree()
    assert (len(tree), tree.depth, tree.leaves(), tree.children(ROOT)) == (0, 0, (), ())
    np.testing.assert_array_equal(tree.visibility, [[True]])


REFUSED = {
    "a token twice below the root": ((3, 3), (ROOT, ROOT), "same token"),
    "a token twice below a node": ((1, 3, 3), (ROOT, 0, 0), "same token"),
    "a parent after its child": ((1, 2), (1, ROOT), "does not precede"),
    "its own parent": ((1, 2), (ROOT, 1), "does not precede"),
    "a parent before the root": ((1,), (-2,), "does not precede"),
    "too few parents": ((1, 2), (ROOT,), "as many parents"),
}


@pytest.mark.parametrize(("tokens", "parents", "reason"), REFUSED.values(), ids=REFUSED)
def test_malformed_trees_are_refused(
    tokens: tuple[int, ...], parents: tuple[int, ...], reason: str
) -> None:
    n = len(tokens)
    with pytest.raises(ValueError, match=reason):
        TokenTree(tokens, parents, (0.5,) * n, tuple(range(n)))


def test_the_same_token_in_different_branches_is_no_duplicate() -> None:
    tree = TokenTree((5, 5, 6, 5), (ROOT, 0, ROOT, 2), (0.5,) * 4, (0,) * 4)
    assert [tree.child(parent, 5) for parent in (ROOT, 0, 2)] == [0, 1, 3]

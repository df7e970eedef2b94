"""Policies: Eq. 7-12 against a literal reference, the static table, options and tree files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sage_core.errors import OptionError
from sage_core.trees.policies import Level, TreePlanner, available, parse, spec
from sage_core.trees.policies.sage_paper import SagePaper, confidence
from sage_core.trees.tree import ROOT, TokenTree, TreeBuilder

RankPath = tuple[int, ...]
Draft = Callable[[RankPath], np.ndarray]

NAMES = (
    "autoregressive",
    "chain",
    "eagle2",
    "optimal-static",
    "sage",
    "sage-paper",
    "spec-llava",
    "static",
)
STATIC_25 = (
    "0 1 2 3 | 00 01 02 10 11 20 21 30 | 000 001 002 010 011 020 021 100 | 0000 0001 0002 "
    "| 00000 00001"
)


def random_draft(seed: int, vocabulary: int, sharpness: float) -> Draft:
    """A draft as a function of the rank path: all probabilities, in falling order."""

    def probabilities(path: RankPath) -> np.ndarray:
        rng = np.random.default_rng([seed, len(path), *path])
        p = rng.dirichlet(np.full(vocabulary, sharpness)) + 1e-9
        return np.sort(p / p.sum())[::-1]

    return probabilities


def grow(planner: TreePlanner, draft: Draft) -> list[RankPath]:
    """The tree that a planner forms, as rank paths in node order, with the simplest drafter."""
    return _grown(planner, draft)[0]


def grow_whole(planner: TreePlanner, draft: Draft) -> list[RankPath]:
    """The same after pruning: the tree that is verified."""
    paths, own = _grown(planner, draft)
    places = {path: node for node, path in enumerate(paths)} | {(): ROOT}
    tree = TokenTree(
        tokens=tuple(range(len(paths))),  # so that a kept node tells which it was
        parents=tuple(places[path[:-1]] for path in paths),
        probs=tuple(own),
        ranks=tuple(path[-1] for path in paths),
    )
    return [paths[node] for node in planner.prune(tree).tokens]


def _grown(planner: TreePlanner, draft: Draft) -> tuple[list[RankPath], list[float]]:
    """Rank paths and probabilities of all nodes."""
    shape = planner.plan()
    paths: list[RankPath] = []
    builder = TreeBuilder()
    frontier = [ROOT]
    for depth in range(1, shape.depth + 1):
        parents = [() if node == ROOT else paths[node] for node in frontier]
        probs = np.stack([draft(path)[: planner.branching] for path in parents])
        growth = planner.grow(Level(depth, frontier, probs, builder))
        rows, ranks = growth.parents.tolist(), growth.ranks.tolist()
        paths += [(*parents[row], rank) for row, rank in zip(rows, ranks, strict=True)]
        numbers = range(len(builder), len(paths))
        above, own = [frontier[row] for row in rows], probs[rows, ranks].tolist()
        new = builder.add(above, numbers, own, ranks)
        frontier = [node for node, grows in zip(new, growth.expand, strict=True) if grows]
        if not frontier:
            break
    return paths, builder.probs


def literal_alpha(probabilities: list[float], k: int) -> float:
    """Eq. 7 to 9, term by term."""
    top = sorted(probabilities, reverse=True)[:k]
    total = sum(top)
    entropy = 0.0
    for p in top:
        if p / total > 0:  # the least float above 0 is 0 in a greater sum
            entropy -= p / total * math.log(p / total)
    return 1 - entropy / math.log(len(top))


def literal_tree(o: SagePaper, alpha: float, dmax: int, draft: Draft) -> list[RankPath]:
    """Eq. 10 to 12, the threshold and the node limit, path by path."""
    depth = o.dmin + alpha * (dmax - o.dmin)  # Eq. 10
    width = o.wmin + (1 - alpha) * (o.wmax - o.wmin)  # Eq. 11
    tree: list[RankPath] = []
    last: list[tuple[RankPath, float, float]] = [((), 1.0, 1.0)]
    level = 1
    while level <= depth and len(tree) < o.nmax:
        found = []
        for path, own, cumulative in last:
            p_parent = own if o.parent == "own" else cumulative
            limit = width
            if level > 1 and o.scale_width:
                limit = width * (1 / level) * (0.5 + p_parent)  # Eq. 12
            for rank, p in enumerate(draft(path)):
                if rank < limit and cumulative * p > o.theta * level / depth:
                    found.append(((*path, rank), p, cumulative * p))
        found.sort(key=lambda node: -node[2])
        last = found[: o.nmax - len(tree)]
        tree += [path for path, _, _ in last]
        level += 1
    return tree


def literal_dmax(o: SagePaper, lengths: list[int]) -> int:
    """The depth limit after these accepted lengths."""
    limit = o.dmax
    for step in range(len(lengths)):
        window = lengths[: step + 1][-o.history :] if o.history else []
        if not o.history or len(window) < o.history:
            continue
        mean = sum(window) / len(window)
        if mean < o.low:
            limit = max(o.dmin, limit - 1)
        elif mean > o.high:
            limit = min(o.dmax + o.raise_by, limit + 1)
    return limit


@st.composite
def sage_options(draw: st.DrawFn) -> SagePaper:
    dmin = draw(st.integers(1, 4))
    wmin = draw(st.floats(1, 4))
    return SagePaper(
        dmin=dmin,
        dmax=dmin + draw(st.integers(0, 5)),
        wmin=wmin,
        wmax=wmin + draw(st.floats(0, 8)),
        k=draw(st.integers(2, 10)),
        nmax=draw(st.sampled_from((1, 3, 10, 25, 64))),
        theta=draw(st.sampled_from((0.0, 0.01, 0.1, 0.3))),
        history=draw(st.sampled_from((0, 1, 3, 10))),
        lookahead=draw(st.booleans()),
        scale_width=draw(st.booleans()),
        parent=draw(st.sampled_from(("own", "cumulative"))),
    )


@given(sage_options(), st.integers(0, 999), st.sampled_from((0.05, 0.3, 2.0)), st.data())
def test_sage_paper_follows_the_equations(
    o: SagePaper, seed: int, sharpness: float, data: st.DataObject
) -> None:
    planner = o.planner()
    lengths: list[int] = []
    seen = 0.5
    for step in range(6):
        draft = random_draft(seed * 10 + step, 14, sharpness)
        root = literal_alpha(draft(()).tolist(), o.k)
        tree = grow(planner, draft)
        if step == 0:
            assert tree == _static_paths()[: o.nmax], "the first tree is the static one"
        else:
            alpha = seen if o.lookahead else root
            expected = literal_tree(o, alpha, literal_dmax(o, lengths), draft)
            assert set(tree) == set(expected)
            assert len(tree) == len(expected) <= o.nmax
        seen = root
        lengths.append(data.draw(st.integers(0, 6)))
        planner.observe(TokenTree(), range(lengths[-1]), ())


@pytest.mark.parametrize(
    ("lengths", "depth"),
    [
        ([0] * 9, 8),  # fewer than ten lengths: the limit stays
        ([0] * 10, 7),
        ([0] * 12, 5),
        ([0] * 40, 3),  # never below dmin
        ([5] * 10, 9),
        ([5] * 40, 10),  # never above dmax + raise_by
        ([2, 3] * 20, 8),  # a mean of 2.5 changes nothing
        ([2] * 20, 8),  # the limits themselves are not crossed
        ([3] * 20, 8),
    ],
)
def test_history_moves_the_depth_limit(lengths: list[int], depth: int) -> None:
    """At α = 1 (a draft that is certain) the depth is the limit itself."""
    planner = SagePaper().planner()

    def certain(path: RankPath) -> np.ndarray:
        return np.eye(14)[0]

    for length in lengths:
        grow(planner, certain)
        planner.observe(TokenTree(), range(length), ())
    assert literal_dmax(SagePaper(), lengths) == depth
    assert planner.plan().depth == depth
    assert max(len(path) for path in grow(planner, certain)) == depth


distributions = st.lists(st.floats(0, 1), min_size=2, max_size=10).filter(lambda p: sum(p) > 1e-3)


@given(distributions)
def test_confidence_is_equation_nine(weights: list[float]) -> None:
    ordered = np.array(sorted(weights, reverse=True))
    alpha = confidence(ordered)
    assert 0 <= alpha <= 1
    assert alpha == pytest.approx(literal_alpha(weights, len(weights)), abs=1e-9)


@given(distributions)
def test_corrected_bound_of_lemma_4_3(weights: list[float]) -> None:
    """p₁ ≥ exp(-H) = k^(α-1): min-entropy never exceeds Shannon entropy."""
    p = np.array(sorted(weights, reverse=True)) / sum(weights)
    assert p[0] >= len(p) ** (confidence(p) - 1) - 1e-9


def test_published_bound_of_lemma_4_3_is_false() -> None:
    k = 10
    p = np.array([0.5, 0.5] + [0.0] * 8)
    alpha = confidence(p)
    assert alpha == pytest.approx(0.699, abs=5e-4)
    assert p[0] < 1 / k + alpha * (k - 1) / k, "what the paper claims does not hold"
    assert p[0] >= k ** (alpha - 1) - 1e-12, "what is proved does, with equality here"


@pytest.mark.parametrize(
    ("p", "alpha"),
    [([1.0] + [0.0] * 9, 1.0), ([0.1] * 10, 0.0), ([0.25, 0.25], 0.0), ([0.9], 1.0)],
)
def test_confidence_at_its_ends(p: list[float], alpha: float) -> None:
    assert confidence(np.array(p)) == pytest.approx(alpha, abs=1e-12)


def _static_paths() -> list[RankPath]:
    return [tuple(int(c) for c in word) for word in STATIC_25.replace("|", " ").split()]


def test_the_static_tree_is_the_published_table() -> None:
    tree = grow(parse("static").planner(), random_draft(1, 14, 1.0))
    assert tree == _static_paths()
    assert len(tree) == parse("static").max_nodes == 25
    assert [sum(len(path) == level for path in tree) for level in range(1, 6)] == [4, 8, 8, 3, 2]


@pytest.mark.parametrize("length", [1, 5, 9])
def test_a_chain_is_the_draft_s_first_choices(length: int) -> None:
    tree = grow(parse(f"chain:length={length}").planner(), random_draft(1, 14, 1.0))
    assert tree == [(0,) * n for n in range(1, length + 1)]


def test_a_planner_is_fresh_for_each_text() -> None:
    """State of one text must not affect the trees of the next."""
    policy = parse("sage-paper:history=1")
    used = policy.planner()
    for step in range(5):
        grow(used, random_draft(step, 14, 0.1))
        used.observe(TokenTree(), range(9), ())
    draft = random_draft(7, 14, 0.3)
    again, fresh = policy.planner(), parse("sage-paper:history=1").planner()
    assert grow(again, draft) == grow(fresh, draft)


FILES = {
    "words": ("0 1 00\n01 000", ["0", "1", "00", "01", "000"]),
    "words out of order": ("000 00 1 0 01", ["0", "1", "00", "01", "000"]),
    "dotted ranks": ("0 0.1 0.1.2", ["0", "01", "012"]),
    "json": ("[[0], [1], [0, 2]]", ["0", "1", "02"]),
}


@pytest.mark.parametrize(("text", "words"), FILES.values(), ids=FILES)
def test_a_static_tree_from_a_file(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "tree.txt"
    file.write_text(text, encoding="utf-8")
    policy = parse(f"static:tree={file}")
    expected = [tuple(int(c) for c in word) for word in words]
    assert grow(policy.planner(), random_draft(3, 14, 1.0)) == expected


def test_ranks_above_nine_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / "tree.json"
    file.write_text(json.dumps([[0], [12], [12, 11]]), encoding="utf-8")
    tree = grow(parse(f"static:tree={file}").planner(), random_draft(3, 14, 1.0))
    assert tree == [(0,), (12,), (12, 11)]


def test_a_small_vocabulary_only_thins_the_tree() -> None:
    """Ranks that do not exist, and what would hang below them, are left out."""
    tree = grow(parse("static").planner(), random_draft(2, 2, 1.0))
    assert tree == [path for path in _static_paths() if max(path) < 2]


BAD_FILES = {
    "empty": "",
    "no parent": "0 00 10",
    "twice": "0 1 0",
    "letters": "0 x",
    "json of words": '["0", ["a"]]',
    "negative": "[[0], [-1]]",
    "an empty path": "[[0], []]",
    "a rank beyond all": "[[4096]]",
    "ranks that are no integers": "[[0.5]]",
    "too many nodes": json.dumps([[first] for first in range(4096)] + [[0, 0]]),
    "too deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_tree_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tree.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError):
        parse(f"static:tree={file}")


BAD_SPECS = {
    "unknown": ("sago", ", ".join(NAMES)),
    "unknown option": ("sage-paper:depth=3", "dmax"),
    "no value": ("chain:length", "length=VALUE"),
    "wrong kind": ("chain:length=long", "int"),
    "not a truth value": ("sage-paper:lookahead=maybe", "bool"),
    "too short": ("chain:length=0", "length"),
    "upside down": ("sage-paper:dmin=9,dmax=3", "dmin <= dmax"),
    "more nodes than the tree has": ("static:nodes=64", "25 nodes"),
    "no such file": ("static:tree=/nowhere/tree.txt", "/nowhere/tree.txt"),
    "bad choice": ("sage-paper:parent=mother", "own or cumulative"),
    "not a number": ("sage-paper:theta=nan", "theta"),
    "infinite": ("sage-paper:wmax=inf", "wmax"),
}


@pytest.mark.parametrize(("text", "named"), BAD_SPECS.values(), ids=BAD_SPECS)
def test_bad_specs_are_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@given(sage_options())
def test_a_spec_survives_the_round_trip(o: SagePaper) -> None:
    assume(all(math.isfinite(v) for v in (o.wmin, o.wmax)))
    assert parse(spec(o)) == o


@pytest.mark.parametrize("name", NAMES)
def test_every_named_policy_is_there_with_help_and_defaults(name: str) -> None:
    kind = available()[name]
    assert kind.__doc__
    assert parse(name) == kind()
    assert spec(kind()) == name
    assert parse(kind()) == kind()

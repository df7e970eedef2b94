"""Statistics, names of methods, data, fixed trees, and records as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sage_core.bench import methods
from sage_core.bench.calibration import fastest
from sage_core.bench.data import (
    BUNDLED,
    BUNDLED_ITEMS,
    bundled_items,
    calibration_items,
    read_data,
)
from sage_core.bench.items import Files
from sage_core.bench.measure import Stopwatch
from sage_core.bench.records import (
    Counts,
    Difference,
    Failure,
    ItemInfo,
    Record,
    from_json,
    to_json,
)
from sage_core.bench.statistics import interval, median, paired_interval, paired_ratio
from sage_core.errors import InputError, OptionError
from sage_core.media import Clip, Picture, Sampling
from sage_core.trees.policies.optimal_static import acceptance_rates, best_tree
from sage_core.trees.steps import Step
from sage_core.trees.tree import TokenTree
from tests.core.bench_fake import Clock, FakeEngine, FakeMethod, items

# Statistics


def test_the_ratio_of_paired_medians_is_no_mean_of_ratios():
    ours, theirs = [2.0, 30.0, 400.0], [1.0, 10.0, 100.0]
    assert paired_ratio(ours, theirs) == 3.0
    assert sum(a / b for a, b in zip(ours, theirs, strict=True)) / 3 == 3.0
    assert paired_ratio([100.0, 10.0, 10.0], [1.0, 10.0, 10.0]) == 1.0, "the mean would be 34"


def test_intervals_hold_the_figure_and_repeat_with_their_seed():
    values = [float(v) for v in range(1, 30)]
    low, high = interval(values, seed=3) or (0, 0)
    assert low < median(values) < high
    assert interval(values, seed=3) == (low, high)
    assert paired_interval([2 * v for v in values], values) == pytest.approx((2, 2)), (
        "pairs stay together: what every item agrees on has no spread"
    )


def test_the_interval_covers_as_often_as_it_says():
    import numpy as np

    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(60):
        low, high = interval(list(rng.exponential(1.0, 40)), seed=1) or (0, 0)
        hits += low <= np.log(2) <= high  # the median of that distribution
    assert 50 <= hits <= 60


def test_nothing_gives_nothing():
    assert median([]) is interval([]) is paired_ratio([], []) is paired_interval([], []) is None
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_ratio([1.0], [])


# Names of methods


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("static", ["static"]),
        ("static,sage-paper:dmax=12,nmax=32", ["static", "sage-paper:dmax=12,nmax=32"]),
        ("sage-paper:dmax=12,nmax=32,chain", ["sage-paper:dmax=12,nmax=32", "chain"]),
        ("static:nodes=9; chain:length=2", ["static:nodes=9", "chain:length=2"]),
        ("transformers-assisted:tokens=5,threshold=0.4", 
         ["transformers-assisted:tokens=5,threshold=0.4"]),
        ("sage+viskip,static:nodes=9+drawn+viskip:share=0.5,chain",
         ["sage+viskip", "static:nodes=9+drawn+viskip:share=0.5", "chain"]),
        ("sage+ngram:longest=3,nodes=8,eagle2:beam=2,k=3+vocab:list=a,sage+vocab",
         ["sage+ngram:longest=3,nodes=8", "eagle2:beam=2,k=3+vocab:list=a", "sage+vocab"]),
        ("static+ears:tolerance=0.2,sage+spec-vla:first=3,last=9,radius=2",
         ["static+ears:tolerance=0.2", "sage+spec-vla:first=3,last=9,radius=2"]),
        ("", []),
    ],
)  # fmt: skip
def test_methods_between_commas(text, names):
    assert methods.split(text) == names
    assert [methods.spec(methods.parse(name)) for name in names] == names


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nothing", "unknown method 'nothing': choose from"),
        ("static:no=1", "has no option 'no'"),
        ("transformers:x=1", "has no option 'x': its options are none"),
        ("transformers-assisted:tokens=many", "option tokens needs int"),
        ("transformers-assisted:schedule=odd", "schedule is constant"),
        ("transformers-lookup:tokens=0", "at least 1"),
        ("best-static:nodes=0", "at least 1"),
        ("sage+skip", "unknown modifier 'skip': choose from ngram, ears"),
        ("sage+lookup", "unknown modifier 'lookup'"),
        ("odd+viskip", "unknown method 'odd'"),
        ("sage+viskip:much=1", "viskip has no option 'much'"),
        ("sage+viskip:share=0", "viskip must be above 0"),
        ("sage+drawn:x=1", "its options are none"),
        ("sage+ngram+ngram:nodes=3", "name each modifier once"),
        ("static+ears+spec-vla:first=1,last=2", "one lossy rule at most"),
        ("autoregressive+viskip", "drafts nothing"),
        ("transformers-lookup+viskip", "only policies take modifiers"),
        ("sage+drawn", "drops nodes"),
        ("sage+ears", "drops nodes"),
        ("static+drawn+ngram", "lookup"),
        ("static+spec-vla", "needs first and last"),
    ],
)
def test_unknown_methods_and_options_are_refused(text, says):
    with pytest.raises(OptionError, match=says):
        methods.parse(text)


@pytest.mark.parametrize(
    ("compare", "budget", "names"),
    [
        ("static", None, ["autoregressive", "static", "sage"]),
        ("sage:dmax=9,static", None, ["autoregressive", "sage:dmax=9", "static"]),
        ("all", None, ["autoregressive", *methods.ALL, "sage"]),
        ("static,best-static,chain,sage-paper", 16,
         ["autoregressive", "static:nodes=16", "best-static:nodes=16", "chain",
          "sage-paper:nmax=16", "sage:nmax=16"]),
        ("static,best-static,chain", 64,
         ["autoregressive", "static:nodes=25", "best-static:nodes=64", "chain", "sage"]),
        ("eagle2,eagle2:beam=3", 40,
         ["autoregressive", "eagle2:nodes=40", "eagle2:beam=3,nodes=40", "sage:nmax=40"]),
        ("chain", 3, ["autoregressive", "chain:length=3", "sage:nmax=3"]),
        ("sage+viskip", None, ["autoregressive", "sage+viskip", "sage"]),
        ("eagle2+ngram,sage+viskip", 40,
         ["autoregressive", "eagle2:nodes=20+ngram:nodes=20", "sage:nmax=40+viskip",
          "sage:nmax=40"]),
    ],
)  # fmt: skip
def test_the_methods_of_a_run(compare, budget, names):
    assert list(methods.chosen(compare, "autoregressive", budget).methods) == names


@pytest.mark.parametrize(
    ("compare", "named", "optional"),
    [
        ("static,transformers-assisted", True, set()),
        ("static,transformers-assisted", False, {"static", "transformers-assisted"}),
        ("all", True, {*methods.ALL}),
        ("all,transformers-assisted,chain", True,
         {*methods.ALL} - {"transformers-assisted", "chain"}),
    ],
)  # fmt: skip
def test_methods_that_were_not_asked_for_by_name_are_optional(compare, named, optional):
    assert methods.chosen(compare, "autoregressive", named=named).optional == optional


def test_all_methods_of_sampled_text():
    found = methods.chosen("all", "transformers", sampled=True)
    assert {"static+drawn", "static+ears:tolerance=0.1"} == found.optional - {*methods.ALL}
    lossy = [m for m in map(methods.parse, methods.ALL) if getattr(m, "lossy", None)]
    assert not lossy, "no lossy rule for greedy text unless it is named"


@pytest.mark.parametrize(
    ("compare", "reference", "sampled", "says"),
    [
        ("static+drawn", "autoregressive", False, "need sampling"),
        ("static+ears", "autoregressive", False, "for sampled text"),
        ("sage+spec-vla:first=1,last=4", "autoregressive", True, "for greedy text"),
        ("static", "static+drawn", True, "the same seed gives other texts"),
        ("static", "transformers-lookup", True, "the same seed gives other texts"),
        ("sage+ngram", "autoregressive", None, "leaves no node for the lookup"),
    ],
)
def test_what_does_not_go_together(compare, reference, sampled, says):
    budget = 1 if sampled is None else None
    with pytest.raises(OptionError, match=says):
        methods.chosen(compare, reference, budget, sampled=bool(sampled))


@pytest.mark.parametrize(
    ("rule", "reference", "sampled", "says"),
    [
        ("ears", "autoregressive", False, "for sampled text"),
        ("ears", "autoregressive", True, "with the modifier instead"),
        ("spec-vla:first=1,last=4", "autoregressive", True, "for greedy text"),
        ("spec-vla:first=1,last=4", "static", False, "lossy too"),
        ("spec-vla:first=1,last=4", "sage+viskip", False, "lossy too"),
        ("spec-vla:first=1,last=4", "ngram", False, "lossy too"),
        (None, "sage+spec-vla:first=1,last=4", False, "it is lossy"),
    ],
)
def test_lossy_rules_that_cannot_be_compared_with_exact_methods(rule, reference, sampled, says):
    with pytest.raises(OptionError, match=says):
        methods.check_lossy(rule, methods.parse(reference), sampled=sampled)


def test_lossy_rules_that_can_be_compared():
    for reference in ("autoregressive", "transformers", "transformers-assisted"):
        methods.check_lossy("spec-vla:first=1,last=4", methods.parse(reference))
        methods.check_lossy(None, methods.parse(reference), sampled=True)


# Data


def test_the_bundled_items_are_balanced_small_files():
    items = bundled_items(BUNDLED_ITEMS)
    counts: dict[str, int] = {}
    for item in items:
        counts[item.category] = counts.get(item.category, 0) + 1
    categories = ("captions", "charts", "counting", "text", "motion", "turns")
    assert counts == dict.fromkeys(categories, 6)
    every = items + calibration_items()
    assert len({item.id for item in every}) == BUNDLED_ITEMS + 4
    for item in every:
        media = item.source.open(Sampling())
        assert all(isinstance(one, Picture) for one in media) or len(media[0].frames) == 8
        assert bool(item.history) == (item.category == "turns")
    videos = [item.source.open(Sampling())[0] for item in items if item.category == "motion"]
    assert all(isinstance(video, Clip) and video.fps == 4 for video in videos)
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 1_000_000
    assert [item.id for item in bundled_items(18)] == [item.id for item in items[:18]]
    with pytest.raises(OptionError, match=r"there are 36 bundled items: .* your own files"):
        bundled_items(37)


def write(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text + "\n")
    return path


def test_our_lists(tmp_path: Path):
    path = write(
        tmp_path / "mine.jsonl",
        {
            "id": "one",
            "file": "a.png",
            "prompt": "What?",
            "category": "odd",
            "more": 1,
            "history": [["Who?", "Nobody."]],
        },
        {"files": ["a.png", "sub/b.png"]},
        "",
    )
    found, problems = read_data([str(path)], "Say.")
    assert not problems
    assert [(i.id, i.prompts, i.category) for i in found] == [
        ("one", ("What?",), "odd"),
        ("2", ("Say.",), ""),
    ]
    assert [item.history for item in found] == [(("Who?", "Nobody."),), ()]
    assert found[1].source == Files((str(tmp_path / "a.png"), str(tmp_path / "sub" / "b.png")))


def test_mmspec(tmp_path: Path):
    folder = tmp_path / "mmspec"
    write(
        folder / "mmspec.jsonl",
        {"id": 7, "image": "x.png", "turns": ["First?", "Second?"], "category": "chat"},
        {"id": 8, "image": "y.png", "turns": ["One?"], "category": "ocr", "topic": "signs"},
    )
    for name in (str(folder), str(folder / "mmspec.jsonl")):
        found, problems = read_data([name], None)
        assert not problems
        assert [(i.id, i.ids, i.category) for i in found] == [
            ("7", ("7#1", "7#2"), "chat"),
            ("8", ("8",), "ocr"),
        ]
        assert found[0].source == Files((str(folder / "images" / "x.png"),))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ({"prompt": "What?"}, "file must be a text or a list of texts, not None"),
        ({"file": "a", "files": ["b"]}, "exclude each other"),
        ({"files": []}, "files must be"),
        ({"file": "a", "prompt": 3}, "prompt must be a text"),
        ({"file": "a", "id": [1]}, "id must be"),
        ({"image": "a.png"}, "turns must be"),
        ({"image": "a.png", "turns": [1]}, "turns must be"),
        ({"file": "a", "history": "Who?"}, "history must be a list of [prompt, answer]"),
        ({"file": "a", "history": [["Who?"]]}, "history must be a list of [prompt, answer]"),
        ({"file": "a", "id": "good"}, "an earlier item has this id"),
    ],
)
def test_bad_lines_are_reported_and_the_rest_is_used(tmp_path: Path, line, says):
    path = write(tmp_path / "mine.jsonl", {"id": "good", "file": "a.png"}, line)
    found, problems = read_data([str(path)], None)
    assert [item.id for item in found] == ["good"]
    assert len(problems) == 1 and says in problems[0].message


def test_files_in_folders_are_found_by_their_content(tmp_path: Path):
    from PIL import Image

    (tmp_path / "sub").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "sub" / "b.dat", format="PNG")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "notes.png").write_text("notes")
    (tmp_path / ".hidden.png").write_bytes((tmp_path / "a.png").read_bytes())
    found, _ = read_data([str(tmp_path)], None)
    assert [Path(item.id).name for item in found] == ["a.png", "b.dat"]
    assert found[0].prompts == (None,), "the default request for a caption"


@pytest.mark.parametrize("kind", ["missing", "empty folder", "empty list", "no text"])
def test_missing_or_empty_data(tmp_path: Path, kind):
    path = tmp_path / ("list.jsonl" if "list" in kind or "text" in kind else "there")
    if kind == "empty folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"\n" if kind == "empty list" else b"\xff\xfe\xff")
    with pytest.raises(InputError, match=str(path)):
        read_data([str(path)], None)


# Fixed trees


def test_acceptance_is_counted_by_depth_and_rank():
    # Two children of the root, and two of the first of them.
    tree = TokenTree((1, 2, 3, 4), (-1, -1, 0, 0), (0.5, 0.3, 0.4, 0.2), (0, 1, 0, 1))
    prefill = Step(0, -1, TokenTree(), (), (0,))
    steps = [
        prefill,
        Step(1, 0, tree, (0, 3), (1, 4, 5)),
        Step(2, 5, tree, (1,), (2, 6)),
        Step(3, 6, tree, (), (7,)),
        Step(4, 7, tree, (0,), (1,), finished=True),  # what came behind is unknown
    ]
    assert acceptance_rates(steps) == {
        1: {0: 2 / 4, 1: 1 / 4},
        2: {0: 0.0, 1: 1.0},
    }


def words(paths) -> str:
    return " ".join("".join(map(str, path)) for path in paths)


def test_the_best_tree_takes_the_best_nodes():
    rates = {1: {0: 0.6, 1: 0.2, 2: 0.1}, 2: {0: 0.5, 1: 0.2}, 3: {0: 0.9}}
    # Expected: 0 .6, 00 .3, 000 .27, 1 .2, 01 .12, 2 and 10 .1, 100 .09 and 010 .108
    assert words(best_tree(rates, 4, 3)) == "0 1 00 000"
    assert words(best_tree(rates, 6, 3)) == "0 1 00 01 000 010"
    assert words(best_tree(rates, 4, 1)) == "0 1 2 3"
    assert len(best_tree(rates, 60, 3)) == 60, "it has its size, whatever the expected acceptance"
    assert best_tree({}, 3, 5) == ((0,), (1,), (2,))


def test_the_best_tree_expects_more_than_any_other():
    """Greedy against all trees of three nodes, by the sum of expected acceptance."""
    from itertools import combinations

    rates = {1: {0: 0.5, 1: 0.45, 2: 0.04}, 2: {0: 0.7, 1: 0.2, 2: 0.1}}
    paths = [(r,) for r in range(3)] + [(r, s) for r in range(3) for s in range(3)]

    def expected(tree: Any) -> float:
        return sum(rates[1][p[0]] * (rates[2][p[1]] if len(p) == 2 else 1.0) for p in tree)

    whole = [
        tree for tree in combinations(paths, 3)
        if all(len(p) == 1 or p[:1] in tree for p in tree)
    ]  # fmt: skip
    assert expected(best_tree(rates, 3, 2)) == pytest.approx(max(map(expected, whole)))


def test_the_fastest_is_by_all_tokens_and_all_seconds():
    clock = Clock()
    tried = [FakeMethod("slow", clock, 5.0), FakeMethod("fast", clock, 20.0)]
    engine = FakeEngine()
    inputs = [engine.prepare(item.request(0, ())) for item in items("a", "b")]
    best, rates = fastest(tried, inputs, lambda: Stopwatch(clock))
    assert best.name == "fast"
    assert rates == {"slow": pytest.approx(5), "fast": pytest.approx(20)}


# Records as JSON


@pytest.mark.parametrize(
    "line",
    [
        Record("a", "m", 1, (3, 4), 1, 0.5, 0.25, {"verify": 0.1},
               Counts(2, {0: 1, 3: 1}, {5: 2}, 50, 10), 4096),
        Record("a", "m", 1, (3,), 1, 0.5, 0.0),
        Record("a", "m", 0, (3,), 1, 0.5, 0.0, lossy="ears:tolerance=0.1", comparable=False),
        ItemInfo("a", "charts", 37, 0.25),
        Difference(3, 5, None, item="a", method="m"),
        Failure("a", "", 0, "input", "gone"),
    ],
    ids=["run", "short run", "sampled run", "item", "difference", "failure"],
)  # fmt: skip
def test_lines_survive_json(line):
    assert from_json(json.loads(json.dumps(to_json(line)))) == line


def test_lines_of_earlier_versions_are_read():
    line = to_json(Record("a", "m", 0, (3,), 1, 0.5, 0.0))
    assert from_json({k: v for k, v in line.items() if k not in ("lossy", "comparable")}) == Record(
        "a", "m", 0, (3,), 1, 0.5, 0.0
    )


def test_the_rates_of_a_record():
    record = Record("a", "m", 0, tuple(range(11)), 1, 1.0, 2.0)
    assert (record.rate, record.whole_rate) == (5.0, 11 / 3)
    assert replace(record, first_tokens=3).rate == 4.0, "a first round may commit several"

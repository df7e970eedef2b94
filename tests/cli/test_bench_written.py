"""The output of ``sage bench``: JSON, CSV, its folder, its report, comparisons of two runs."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from tests.cli.bench_engine import report
from tests.core.bench_fake import FakeMethod


def test_the_json_has_what_is_documented(sage, engine, lists):
    found = report(sage("bench", str(lists), "--compare", "static", "--json"))
    assert found["schema"] == 1 and found["reference"] == "autoregressive"
    assert {"date", "command", "cpu", "threads", "versions"} <= set(found["environment"])
    assert "ratio of paired medians" in found["speedup_is"]
    one = {method["name"]: method for method in found["methods"]}["sage"]
    assert one["speedup"] == pytest.approx(2.5)
    documented = {
        "name", "lossy", "comparable", "items", "timed_items", "failed", "exact", "compared",
        "differences", "new_tokens", "tokens_per_second", "tokens_per_second_interval", "speedup",
        "speedup_interval", "median_item_speedup", "end_to_end_speedup", "slower_items",
        "worst_item", "worst_item_speedup", "steps", "mean_accepted", "mean_acceptance_length",
        "accepted_histogram", "acceptance_by_depth", "nodes_per_step", "draft_passes_per_step",
        "seconds", "peak_memory",
    }  # fmt: skip
    assert set(one) == documented
    text = (Path(__file__).parents[2] / "docs" / "bench.md").read_text(encoding="utf-8")
    assert not [name for name in (*documented, *found) if f"`{name}`" not in text]


def test_csv(sage, engine, lists):
    done = sage("bench", str(lists), "--compare", "static", "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["name"] for row in rows] == ["autoregressive", "static", "sage"]
    assert float(rows[2]["speedup_interval_low"]) == pytest.approx(2.5)
    assert float(rows[2]["seconds_verify"]) == pytest.approx(0.75)
    assert [float(rows[2][f"mean_accept{name}"]) for name in ("ed", "ance_length")] == [4, 5]


def test_the_folder(sage, engine, lists, tmp_path):
    folder = tmp_path / "out"
    assert sage("bench", str(lists), "--compare", "static", "--output", str(folder)).exit_code == 0
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    plots = {
        f"plots/{plot}.svg"
        for plot in ("speed", "speedup-by-item", "time-by-phase", "accepted-length",
                     "acceptance-by-depth")
    }  # fmt: skip
    assert names == plots | {
        "plan.json", "items.jsonl", "results.json", "results.csv", "environment.json",
        "command.txt", "report.html", "trees.jsonl",
    }  # fmt: skip
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    kinds = [line["line"] for line in lines]
    assert (kinds.count("run"), kinds.count("item")) == (3 * 3 * 2, 3)
    assert lines[1]["tokens"] == [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 9]


def test_the_report_is_one_file_without_a_network(sage, engine, lists, tmp_path):
    folder = tmp_path / "out"
    sage("bench", str(lists), "--output", str(folder), "--trees", "b,c")
    page = (folder / "report.html").read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[^\s\"'<>)\\]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of a format, which is not loaded"
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", page)
    assert "<!--" not in page.split("<script>")[0].replace("<!-- ", ""), "every place is filled"
    views = json.loads(re.search(r"const views = (.*?), page = ", page)[1])
    assert {(v["title"], v["policy"]) for v in views} >= {("b", "sage"), ("c", "static")}
    assert "a" not in {v["title"] for v in views}


def test_texts_cannot_end_the_script_of_the_report(sage, engine, tmp_path):
    path = Path("odd.jsonl")
    path.write_text('{"id": "</script><b>x", "file": "a.png"}\n')
    sage("bench", str(path), "--output", str(tmp_path / "out"))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 1 and "<b>x" not in page


def test_a_lossy_method_is_marked_and_not_called_inexact(sage, engine, lists, tmp_path):
    rule = "spec-vla:first=20,last=29,radius=2"

    def spoil(method: FakeMethod) -> None:
        if method.name == "sage":
            method.spoil = lambda tokens: (*tokens[:4], 7, *tokens[5:])
            method.lossy = rule

    engine.change = spoil
    arguments = ("bench", str(lists), "--compare", "static", "--lossy", rule)
    done = sage(*arguments, "--output", str(tmp_path / "out"))
    assert f"lossy by {rule}: sage, a from token 4" in done.stdout
    assert "sage (lossy)" in done.stdout
    assert "not exact" not in done.stdout
    found = report(sage(*arguments, "--output", str(tmp_path / "out"), "--json"))
    assert found["settings"]["lossy"] == rule
    assert {m["name"]: m["lossy"] for m in found["methods"]} == {
        "autoregressive": None, "static": None, "sage": rule
    }  # fmt: skip
    rows = csv.DictReader(io.StringIO(sage(*arguments, "--csv").stdout))
    assert [row["lossy"] for row in rows] == ["", "", rule]


def test_sampled_texts_that_cannot_be_compared_are_marked(sage, engine, lists, tmp_path):
    def own(method: FakeMethod) -> None:
        if method.name in ("transformers-assisted", "static+drawn"):
            method.spoil = lambda tokens: (*tokens[:4], 7, *tokens[5:])
            method.comparable = False

    engine.change = own
    arguments = ("bench", str(lists), "--compare", "transformers-assisted,static+drawn")
    arguments += ("--temperature", "0.7", "--min-p", "0.1", "--seed", "5")
    done = sage(*arguments)
    assert "not comparable under sampling: transformers-assisted, static+drawn" in done.stdout
    assert "sampled with temperature 0.7, min_p 0.1, seed 5" in done.stdout
    assert "not exact" not in done.stdout
    rows = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()]
    assert {row[0]: row[-1] for row in rows if len(row) == 12 and row[0] in engine.settings} == {
        "autoregressive": "3/3", "transformers-assisted": "–", "static+drawn": "–", "sage": "3/3"
    }  # fmt: skip
    found = report(sage(*arguments, "--json"))
    assert found["settings"]["sampling"] == {"temperature": 0.7, "min_p": 0.1}
    assert [m["comparable"] for m in found["methods"]] == [True, False, False, True]
    folder = str(tmp_path / "out")
    assert sage(*arguments, "--output", folder).exit_code == 0
    other = sage(*arguments, "--top-k", "3", "--output", folder)
    assert other.exit_code == 2 and "other decoding" in other.stderr, "another run"


def test_diff(sage, engine, lists, tmp_path):
    for name, rate in (("one", 25.0), ("two", 30.0)):
        engine.change = lambda m, rate=rate: setattr(m, "rate", rate if m.name == "sage" else 10.0)
        folder = str(tmp_path / name)
        sage("bench", str(lists), "--compare", "static", "--output", folder)
    both = (str(tmp_path / "one"), str(tmp_path / "two" / "results.json"))
    found = report(sage("bench", "diff", *both, "--json"))
    changed = {(c["method"], c["figure"]) for c in found["changes"] if c["changed"]}
    assert changed == {("sage", "tokens_per_second"), ("sage", "speedup")}
    table = sage("bench", "diff", *both).stdout
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]
    assert next(row for row in rows if row[:2] == ["sage", "speedup"]) == [
        "sage", "speedup", "2.50", "3.00", "1.200", "1.200–1.200", "more"
    ]  # fmt: skip
    same = report(sage("bench", "diff", both[0], both[0], "--json"))
    assert not any(change["changed"] for change in same["changes"])


def test_diff_reads_the_results_of_earlier_versions(sage):
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    names = [str(results / f"bench-{name}.json") for name in ("first", "second")]
    assert "mean_acceptance_length" not in Path(names[0]).read_text(encoding="utf-8")
    found = report(sage("bench", "diff", *names, "--json"))
    assert found["items"] == 18 and found["changes"]

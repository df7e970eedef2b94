"""``sage bench`` with fake methods: what is printed, written, gone on with, and its exit codes."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sage_cli import bench_job
from sage_cli.render import bench_plots
from sage_core.bench import methods
from sage_core.errors import ModelError, OptionError
from tests.core.bench_fake import Clock, FakeEngine, FakeMethod

RATES = {"autoregressive": 10.0, "static": 20.0, "sage": 25.0, "transformers": 9.0}


class Engine(FakeEngine):
    """Gives a fake method for every name; ``change`` is done to each as it is made."""

    def __init__(self) -> None:
        super().__init__(Clock())
        self.change: Callable[[FakeMethod], None] = lambda method: None
        self.settings: dict[str, Any] = {}
        self.calibrated: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self.cannot: set[str] = set()

    def check(self, name: str) -> None:
        if name in self.cannot:
            raise OptionError(f"{name}: not for this pair")

    def method(self, name: str, setting: Mapping[str, Any] | None = None) -> FakeMethod:
        self.settings[name] = setting
        rate = RATES.get(name.partition(":")[0], 15.0)
        accepted = 0 if name in ("autoregressive", "transformers") else 4
        made = FakeMethod(name, self.clock, rate, accepted=accepted)
        made.on_call = lambda item: self.calls.append((name, item))
        self.change(made)
        return made

    def calibrate(self, method: Any, items: Any) -> dict[str, Any]:
        self.calibrated.append(methods.spec(method))
        return {"setting": len(items)}


@pytest.fixture
def drawn() -> None:
    """Asked for by the tests that want plots drawn, which takes seconds."""
    pytest.importorskip("matplotlib")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Engine:
    engine = Engine()
    monkeypatch.setattr(bench_job, "load_engine", lambda models: engine)
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(bench_plots, "write_plots", lambda folder, report: {})
    return engine


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """A list of three items, none of which is opened by the fake."""
    path = Path("mine.jsonl")
    path.write_text("".join(f'{{"id": "{i}", "file": "{i}.png"}}\n' for i in "abc"))
    return path


def report(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_table(sage, engine, lists):
    done = sage("bench", str(lists), "--compare", "static")
    assert done.exit_code == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines() if line.strip()]
    assert rows[0][:4] == ["method", "tokens/s", "95%", "speed-up"]
    assert [row[0] for row in rows[2:5]] == ["autoregressive", "static", "sage"]
    assert rows[4] == [
        "sage", "25.0", "25–25", "2.50", "2.50–2.50", "2.50", "0%", "4.00", "4.0", "2.0", "3/3"
    ]  # fmt: skip
    assert "speed-up: median tokens/s over that of autoregressive" in done.stdout


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
        "worst_item", "worst_item_speedup", "steps", "mean_accepted", "accepted_histogram",
        "acceptance_by_depth", "nodes_per_step", "draft_passes_per_step", "seconds", "peak_memory",
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


def test_nothing_but_the_results_is_on_standard_output(sage, engine, lists, tmp_path):
    folder = tmp_path / "out"
    done = sage("bench", str(lists), "--json", "--output", str(folder))
    assert json.loads(done.stdout)["methods"]
    assert "results in" in done.stderr
    assert sage("bench", str(lists), "--json", "--quiet").stderr == ""


def test_the_folder(sage, drawn, engine, lists, tmp_path):
    folder = tmp_path / "out"
    assert sage("bench", str(lists), "--compare", "static", "--output", str(folder)).exit_code == 0
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    plots = {
        f"plots/{plot}.{kind}"
        for plot in ("speed", "speedup-by-item", "time-by-phase", "accepted-length",
                     "acceptance-by-depth")
        for kind in ("png", "svg")
    }  # fmt: skip
    assert names == plots | {
        "plan.json", "items.jsonl", "results.json", "results.csv", "environment.json",
        "command.txt", "report.html", "trees.jsonl",
    }  # fmt: skip
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    kinds = [line["line"] for line in lines]
    assert (kinds.count("run"), kinds.count("item")) == (3 * 3 * 2, 3)
    assert lines[1]["tokens"] == [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 9]


def test_the_report_is_one_file_without_a_network(sage, drawn, engine, lists, tmp_path):
    folder = tmp_path / "out"
    sage("bench", str(lists), "--output", str(folder), "--trees", "b,c")
    page = (folder / "report.html").read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", page))
    formats = ("w3.org", "purl.org", "creativecommons.org", "matplotlib.org")  # never loaded
    assert not {a for a in addresses if not any(name in a for name in formats)}
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


def test_without_matplotlib_the_rest_is_written(sage, drawn, engine, lists, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = sage("bench", str(lists), "--output", str(tmp_path / "out"))
    assert done.exit_code == 0
    assert "pip install 'sage-vlm[plots]'" in done.stderr
    assert (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / "out" / "plots").exists()


def test_an_interrupted_run_shows_what_there_is_and_goes_on(sage, engine, lists, tmp_path):
    folder = str(tmp_path / "out")

    def interrupt(method: FakeMethod) -> None:
        def call(item: str) -> None:
            engine.calls.append((method.name, item))
            if method.name == "sage" and item == "b":
                raise KeyboardInterrupt

        method.on_call = call

    engine.change = interrupt
    broken = sage("bench", str(lists), "--compare", "static", "--repeats", "1", "--output", folder)
    assert broken.exit_code == 130 and "interrupted" in broken.stderr
    assert "1/1" in broken.stdout, "the table of what was done"
    assert json.loads((tmp_path / "out" / "results.json").read_text())["items"]

    engine.change = lambda method: None
    engine.calls.clear()
    again = sage(
        "bench", str(lists), "--compare", "static", "--repeats", "1", "--output", folder, "--json"
    )
    assert "going on" in again.stderr
    assert {m["items"] for m in report(again)["methods"]} == {3}
    assert not [item for _, item in engine.calls if item == "a"], "nothing is done twice"
    other = sage("bench", str(lists), "--compare", "chain", "--output", folder)
    assert other.exit_code == 2 and "other methods, repeats" in other.stderr


def test_items_that_fail_are_told_and_the_worst_code_is_used(sage, engine):
    path = Path("mine.jsonl")
    path.write_text('{"id": "a", "file": "a.png"}\n{"id": "bad", "file": "no.png"}\n{"id": 3}\n')

    def fail(method: FakeMethod) -> None:
        if method.name == "static":
            method.fail = ("a",)

    done = sage("bench", str(path), "--compare", "static", "--json")
    assert done.exit_code == 3
    found = json.loads(done.stdout)
    assert [failure["item"] for failure in found["failures"]] == ["bad"]
    assert found["problems"][0]["where"] == "mine.jsonl:3"
    assert "sage: bad: no such file" in done.stderr and "mine.jsonl:3: file must be" in done.stderr
    engine.change = fail
    done = sage("bench", str(path), "--compare", "static")
    assert done.exit_code == 5
    assert "failed: static, a: no room" in done.stdout


def test_a_method_that_is_not_exact_is_named_with_place_and_margin(sage, engine, lists):
    def spoil(method: FakeMethod) -> None:
        if method.name == "sage":
            method.spoil = lambda tokens: (*tokens[:4], 7, *tokens[5:])

    engine.change = spoil
    done = sage("bench", str(lists), "--compare", "static")
    assert done.exit_code == 0
    assert "not exact: sage, a from token 4 (margin 0.25)" in done.stdout
    assert "0/3" in done.stdout


def test_a_lossy_method_is_marked_and_not_called_wrong(sage, engine, lists, tmp_path):
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


def test_sampled_texts_that_cannot_be_compared_are_told_as_such(sage, engine, lists, tmp_path):
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
    assert {row[0]: row[-1] for row in rows if len(row) == 11 and row[0] in engine.settings} == {
        "autoregressive": "3/3", "transformers-assisted": "–", "static+drawn": "–", "sage": "3/3"
    }  # fmt: skip
    found = report(sage(*arguments, "--json"))
    assert found["settings"]["sampling"] == {"temperature": 0.7, "min_p": 0.1}
    assert [m["comparable"] for m in found["methods"]] == [True, False, False, True]
    folder = str(tmp_path / "out")
    assert sage(*arguments, "--output", folder).exit_code == 0
    other = sage(*arguments, "--top-k", "3", "--output", folder)
    assert other.exit_code == 2 and "other decoding" in other.stderr, "another run"


def test_greedy_overrules_the_figures(sage, engine, lists):
    found = report(sage("bench", str(lists), "--temperature", "0.7", "--greedy", "--json"))
    assert found["settings"]["sampling"] is None
    own = report(sage("bench", str(lists), "--sample", "--json"))
    assert own["settings"]["sampling"] == {}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [((), 0), (("--compare", "all"), 0), (("--compare", "static,transformers-assisted"), 2)],
    ids=["by default", "all", "by name"],
)
def test_what_the_pair_cannot_run_is_left_out_unless_it_was_named(
    sage, engine, lists, arguments, code
):
    engine.cannot = {"transformers-assisted"}
    done = sage("bench", str(lists), *arguments, "--json")
    assert done.exit_code == code
    assert "transformers-assisted: not for this pair" in done.stderr
    assert ("left out" in done.stderr) == (code == 0)
    if code == 0:
        names = [m["name"] for m in json.loads(done.stdout)["methods"]]
        assert "transformers-assisted" not in names and "static" in names


def test_settings_are_chosen_on_other_items_once(sage, engine, lists, tmp_path):
    folder = str(tmp_path / "out")
    arguments = ("bench", str(lists), "--compare", "best-static", "--output", folder)
    assert sage(*arguments).exit_code == 0
    assert engine.calibrated == ["best-static"]
    assert engine.settings["best-static"] == {"setting": 4}
    assert sage(*arguments).exit_code == 0
    assert engine.calibrated == ["best-static"], "on going on, what was chosen is kept"


@pytest.mark.parametrize(("count", "measured", "others"), [(3, 3, 4), (4, 3, 1), (40, 36, 4)])
def test_own_data_lends_items_to_choose_on(count, measured, others):
    path = Path("own.jsonl")
    path.write_text("".join(f'{{"id": "{i}", "file": "x"}}\n' for i in range(count)))
    items, found, _ = bench_job.read([str(path)], None, None, lend=True)
    assert not {item.id for item in items} & {item.id for item in found}
    assert (len(items), len(found)) == (measured, others)
    assert len(bench_job.read([str(path)], None, None, lend=False)[0]) == count


def test_the_default_data(sage, engine):
    found = report(sage("bench", "--compare", "static", "--json"))
    assert len(found["items"]) == 18
    assert {item["category"] for item in found["items"]} == {
        "captions", "charts", "counting", "text", "motion", "turns"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--compare", "nothing"), 2, "unknown method 'nothing'"),
        (("--compare", "static", "--draft", "none"), 2, "cannot decode without a draft"),
        (("--json", "--csv"), 2, "exclude each other"),
        (("--items", "61"), 2, "there are 60 bundled items"),
        (("--items", "0"), 2, "Invalid value"),
        (("--repetition-penalty", "0"), 2, "must be a positive number"),
        (("--lossy", "ears"), 2, "for sampled text"),
        (("--lossy", "ears", "--sample"), 2, "a row of its own"),
        (("--temperature", "-1"), 2, "temperature must be 0 (greedy) or a positive number"),
        (("--top-p", "2"), 2, "top_p must be above 0"),
        (("--compare", "static+drawn"), 2, "this is greedy"),
        (("--compare", "static+drawn", "--top-k", "5", "--greedy"), 2, "this is greedy"),
        (("--reference", "transformers-lookup", "--sample"), 2, "gives other texts"),
        (("--lossy", "spec-vla:first=1,last=4", "--reference", "static"), 2, "lossy too"),
        (("--trees", "nothing"), 2, "there is no item 'nothing'"),
        (("gone.png",), 3, "gone.png: no such file"),
        (("diff", "a.json"), 2, "diff compares two results"),
        (("diff", "a.json", "b.json"), 3, "a.json: cannot be read"),
        (("diff", "a.png", "b.png"), 3, "a.png: cannot be read"),
    ],
)
def test_what_cannot_work_is_refused(sage, engine, arguments, code, says):
    done = sage("bench", *arguments)
    assert not engine.settings, "nothing was loaded or measured"
    assert (done.exit_code, done.stdout) == (code, "")
    assert says in re.sub(r"\s+", " ", done.stderr)


def test_a_model_that_cannot_be_loaded(sage, monkeypatch, lists):
    def load(models: Any) -> Engine:
        raise ModelError("x: no such model")

    monkeypatch.setattr(bench_job, "load_engine", load)
    assert sage("bench", str(lists)).exit_code == 4


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


def test_a_method_that_cannot_choose_is_left_out(sage, engine, lists):
    def refuse(method: Any, items: Any) -> dict[str, Any]:
        raise RuntimeError("not for these models")

    engine.calibrate = refuse
    done = sage("bench", str(lists), "--compare", "static,transformers-assisted-best", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert [m["items"] for m in found["methods"]] == [3, 3, 0, 3]
    assert found["problems"] == [
        {"where": "transformers-assisted-best", "message": "not for these models"}
    ]
    alone = sage("bench", str(lists), "--reference", "transformers-assisted-best")
    assert (alone.exit_code, alone.stdout) == (1, "")


def test_when_everything_fails_the_failures_are_shown(sage, engine):
    path = Path("mine.jsonl")
    path.write_text('{"id": "bad", "file": "no.png"}\n')
    done = sage("bench", str(path), "--compare", "static")
    assert done.exit_code == 3
    assert "failed: bad: no such file" in done.stdout and "0/0" in done.stdout


def test_progress_is_drawn_between_decodings(monkeypatch):
    from sage_cli.render.bench_progress import Progress
    from sage_core.bench.records import Failure, Record, Results

    shown = io.StringIO()
    shown.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    results = Results()
    with Progress(True, 4, 1, "autoregressive", 2) as progress:
        for method, seconds in (("autoregressive", 2.0), ("sage", 1.0)):
            record = Record("a[b]", method, 0, tuple(range(9)), 1, 1.0, seconds)
            results.add(record)
            progress.line(record, results)
        progress.say("x: gone")
        progress.line(Failure("b", "sage", 0, "other", "gone"), results)
    text = shown.getvalue()
    assert "3 of 4" in text and "left: a[b], sage 2.00×" in text and "sage: x: gone" in text

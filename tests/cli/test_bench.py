"""``sage bench`` with fake methods: output, resuming, errors and exit codes."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sage_cli.jobs import bench as bench_job
from sage_core.errors import ModelError
from tests.cli.bench_engine import Engine, report
from tests.core.bench_fake import FakeMethod


def test_the_table(sage, engine, lists):
    done = sage("bench", str(lists), "--compare", "static")
    assert done.exit_code == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines() if line.strip()]
    assert rows[0][:4] == ["method", "tokens/s", "95%", "speed-up"]
    assert [row[0] for row in rows[2:5]] == ["autoregressive", "static", "sage"]
    assert rows[4] == [
        "sage", "25.0", "25–25", "2.50", "2.50–2.50", "2.50", "0%", "4.00", "5.00", "4.0", "2.0",
        "3/3",
    ]  # fmt: skip
    assert "speed-up: median tokens/s over that of autoregressive" in done.stdout
    assert "the bonus token not counted; τ+1: mean acceptance length with it" in done.stdout


def test_nothing_but_the_results_is_on_standard_output(sage, engine, lists, tmp_path):
    folder = tmp_path / "out"
    done = sage("bench", str(lists), "--json", "--output", str(folder))
    assert json.loads(done.stdout)["methods"]
    assert "results in" in done.stderr
    assert sage("bench", str(lists), "--json", "--quiet").stderr == ""


def test_an_interrupted_run_shows_its_results_and_is_resumed(sage, engine, lists, tmp_path):
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
    assert "resuming the run" in again.stderr
    assert {m["items"] for m in report(again)["methods"]} == {3}
    assert not [item for _, item in engine.calls if item == "a"], "nothing is done twice"
    other = sage("bench", str(lists), "--compare", "chain", "--output", folder)
    assert other.exit_code == 2 and "other methods, repeats" in other.stderr


def test_failed_items_are_reported_and_the_worst_code_is_used(sage, engine):
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


def test_a_method_that_is_not_exact_is_named_with_position_and_margin(sage, engine, lists):
    def spoil(method: FakeMethod) -> None:
        if method.name == "sage":
            method.spoil = lambda tokens: (*tokens[:4], 7, *tokens[5:])

    engine.change = spoil
    done = sage("bench", str(lists), "--compare", "static")
    assert done.exit_code == 0
    assert "not exact: sage, a from token 4 (margin 0.25)" in done.stdout
    assert "0/3" in done.stdout


def test_greedy_has_precedence_over_sampling_parameters(sage, engine, lists):
    found = report(sage("bench", str(lists), "--temperature", "0.7", "--greedy", "--json"))
    assert found["settings"]["sampling"] is None
    own = report(sage("bench", str(lists), "--sample", "--json"))
    assert own["settings"]["sampling"] == {}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [((), 0), (("--compare", "all"), 0), (("--compare", "static,transformers-assisted"), 2)],
    ids=["by default", "all", "by name"],
)
def test_methods_that_the_pair_cannot_run_are_left_out_unless_named(
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
    assert engine.calibrated == ["best-static"], "the setting is kept for a resumed run"


@pytest.mark.parametrize(("count", "measured", "others"), [(3, 3, 4), (4, 3, 1), (40, 36, 4)])
def test_settings_are_chosen_on_items_of_own_data(count, measured, others):
    path = Path("own.jsonl")
    path.write_text("".join(f'{{"id": "{i}", "file": "x"}}\n' for i in range(count)))
    items, found, _ = bench_job.read([str(path)], None, None, calibrates=True)
    assert not {item.id for item in items} & {item.id for item in found}
    assert (len(items), len(found)) == (measured, others)
    assert len(bench_job.read([str(path)], None, None, calibrates=False)[0]) == count


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
        (("--compare", "static", "--draft", "none"), 2, "needs a draft: leave out --draft none"),
        (("--json", "--csv"), 2, "exclude each other"),
        (("--items", "37"), 2, "there are 36 bundled items: give fewer, or name your own files"),
        (("--items", "0"), 2, "Invalid value"),
        (("--repetition-penalty", "0"), 2, "must be a positive number"),
        (("--lossy", "ears"), 2, "for sampled text"),
        (("--lossy", "ears", "--sample"), 2, "compare a policy with the modifier instead"),
        (("--temperature", "-1"), 2, "temperature must be 0 (greedy) or a positive number"),
        (("--top-p", "2"), 2, "top_p must be above 0"),
        (("--compare", "static+drawn"), 2, "need sampling"),
        (("--compare", "static+drawn", "--top-k", "5", "--greedy"), 2, "need sampling"),
        (("--reference", "transformers-lookup", "--sample"), 2, "the same seed gives other texts"),
        (("--lossy", "spec-vla:first=1,last=4", "--reference", "static"), 2, "lossy too"),
        (("--trees", "nothing"), 2, "there is no item 'nothing'"),
        (("gone.png",), 3, "gone.png: no such file"),
        (("diff", "a.json"), 2, "diff compares two results"),
        (("diff", "a.json", "b.json"), 3, "a.json: no such file"),
        (("diff", "a.png", "b.png"), 3, "a.png: not UTF-8 text"),
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


def test_a_method_without_a_setting_is_left_out(sage, engine, lists):
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

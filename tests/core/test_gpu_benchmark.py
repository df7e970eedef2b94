"""The GPU benchmark's own code, tried on the CPU with tiny shapes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_measure
from benchmarks.gpu import Report, requirements, run_tests
from benchmarks.gpu_measure import GRAPHS, PassTime, TextResults
from benchmarks.harness import GENERATE, Decoded
from sage_core.bench.records import Mismatch


@pytest.mark.slow
def test_a_dry_run_does_every_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # as on any machine without a GPU
    output = tmp_path / "report"
    assert gpu.main(["--dry-run", "--output", str(output)]) == 0
    text = output.with_suffix(".md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == text.strip()
    assert text.index("## Floors") < text.index("## Exactness in float32") < text.index("## tiny")
    data = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    pair = data["pairs"]["tiny"]
    kinds = {(time["role"], time["executor"]) for time in pair["passes"]}
    assert len(kinds) == 6 and len(pair["passes"]) == 6 * 2 * 2
    for texts in (data["exactness"]["texts"], pair["texts"]):
        assert [row["name"] for row in texts] == [
            "transformers generate",
            "autoregressive, CUDA graphs",
            "static, CUDA graphs",
        ]
        assert all(row["exact"] == row["texts"] == 1 for row in texts)
    assert any("CUDA graphs need a CUDA device" in note for note in pair["notes"])


def test_a_part_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    def fails() -> list[str]:
        raise RuntimeError("no more memory\nand a second line")

    report = Report(str(tmp_path / "r"), until=float("inf"))
    report.part("one", fails)
    report.part("two", lambda: ["a figure"])
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert "**Failed**: RuntimeError: no more memory\n" in text and "a figure" in text
    assert report.failed == ["one"]


def test_a_part_without_time_is_named(tmp_path: Path) -> None:
    report = Report(None, until=0.0)
    report.part("late", lambda: ["never"], least=30)
    assert "Left out: 0 s are left, and it needs 30 s." in report.lines
    assert report.failed == []


def test_failed_tests_fail_the_run(tmp_path: Path) -> None:
    file = tmp_path / "test_wrong.py"
    file.write_text("def test_wrong():\n    assert 1 == 2\n", encoding="utf-8")
    report = Report(None, until=float("inf"))
    lines = run_tests(report, [str(file)])
    assert "exit code 1" in lines[0] and report.failed == ["tests"]
    assert any("1 failed" in line for line in lines)


def test_requirements_stand_beside_what_was_measured() -> None:
    times = [
        PassTime("target", GRAPHS, 64, 4096, 4.0, 3.4, 1.0),
        PassTime("target", GRAPHS, 1, 4096, 3.5, 3.4, 1.0),
        PassTime("draft", GRAPHS, 8, 1024, 0.5, 0.25, 1.0),
        PassTime("draft", GRAPHS, 8, 4096, 0.55, 0.27, 1.0),
    ]
    texts: list[dict[str, Any]] = [
        {
            "name": f"static, {GRAPHS}",
            "mean_accepted": 3.0,
            "tokens_per_second": 300.0,
            "over_generate": 13.5,
            "speedup": 2.9,
        }
    ]
    lines = "\n".join(requirements(times, texts))
    for expected in (
        "| 1.25 | 1.18 |",
        "| 0.60 | 0.50 |",
        "| 1.20 | 1.10 |",
        "| 13.50 |",
        "2.90 |",
    ):
        assert expected in lines
    assert requirements([], []) == requirements(times, texts)[:2]


def test_predictions_are_made_from_the_floor() -> None:
    assert gpu_measure.predicted(GRAPHS, 3.6, 28) == pytest.approx(4.42)
    assert gpu_measure.predicted("eager", 0.25, 24) == pytest.approx(18.0)


def test_without_a_gpu_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "no CUDA device: --dry-run" in capsys.readouterr().err


def test_a_difference_is_explained_once_for_each_place(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def explained(*_: Any, **__: Any) -> Mismatch:
        asked.append(1)
        return Mismatch(1, 6, 9, 0.01, True)

    monkeypatch.setattr(gpu_measure, "first_mismatch", explained)
    right, wrong = Decoded((5, 6, 7), 1.0), Decoded((5, 9, 7), 1.0)
    names = ("one", "two", "three")
    results = TextResults({GENERATE: [right], "one": [wrong], "two": [wrong], "three": [right]})
    inputs = {"input_ids": torch.tensor([[1, 2]])}
    pair: Any = SimpleNamespace(target=None)
    for name in names:
        gpu_measure._compare(pair, results, name, 0, inputs, 3)
    assert [found["method"] for found in results.mismatches] == ["one", "two"]
    assert len(asked) == 1
    assert [(row["exact"], row["different"]) for row in results.figures()[1:3]] == [(0, 0)] * 2
    assert [row["near_ties"] for row in results.figures()] == [0, 1, 1, 0]

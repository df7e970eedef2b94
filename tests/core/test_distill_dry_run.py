"""The dry run: one measured step, what follows for the run, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sage_core.distill.data import read_samples
from sage_core.distill.dry_run import DryRun, dry_run, run_length
from sage_core.distill.trainer import Event
from sage_core.errors import InputError, MemoryExhaustedError, OptionError
from tests.core import distill_runs, saved_families


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("dry_run")
    saved_families.save(where / "target", "llava_onevision", 2, 0)
    saved_families.picture(40, 28, 0).image.save(where / "a.png")
    (where / "damaged.png").write_bytes((where / "a.png").read_bytes()[:60])
    return where


def _dry_run(folder: Path, lines: list[dict[str, str]], **more: object) -> tuple[DryRun, list[str]]:
    data = folder / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    samples = read_samples(data, lambda note: None)
    events: list[Event] = []
    pair = distill_runs.load_target(folder / "target")
    found = dry_run(pair, samples, distill_runs.options(**more), events.append)
    return found, [event.note for event in events]


def test_the_longest_sample_is_measured(folder: Path) -> None:
    lines = [
        {"image": "a.png", "prompt": "What?"},
        {"prompt": "What is it?", "answer": "It is what it is."},
        {"image": "a.png", "prompt": "What is it, and why is it what it is?"},
    ]
    found, notes = _dry_run(folder, lines, steps=40)
    assert found.sample.endswith(":3") and not notes
    assert found.visual_tokens > 0 and found.prompt_tokens > found.visual_tokens
    assert 2 <= found.answer_tokens <= 10
    assert (found.samples, found.measured, found.batch, found.steps) == (3, 3, 2, 40)
    assert found.parameters > 0 and found.peak_memory > 10_000_000
    assert found.step_seconds > 0 and found.answer_seconds > 0
    wanted = 40 * found.step_seconds + 3 * found.answer_seconds
    assert found.seconds == pytest.approx(wanted, abs=0.1)
    assert set(found.as_json()) >= {"peak_memory", "step_seconds", "seconds", "steps"}
    assert not {"state.pt", "log.csv"} & {path.name for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", ["vispec", "model"])
def test_a_given_answer_counts_and_costs_no_time(folder: Path, kind: str) -> None:
    long = "It is what it is, and so it is. It is not what it is not."
    lines = [{"prompt": "What is it?", "answer": "It."}, {"prompt": "Why?", "answer": long}]
    found, _ = _dry_run(folder, lines, kind=kind, steps=None, minutes=1, max_new_tokens=64)
    assert found.sample.endswith(":2") and found.answer_tokens > 5
    assert found.answer_seconds == 0 and found.kind == kind
    assert found.seconds == pytest.approx(60)
    assert found.steps == pytest.approx(60 / found.step_seconds, rel=0.1)


def test_unusable_samples_are_reported(folder: Path) -> None:
    lines = [{"image": "damaged.png"}, {"prompt": "What?"}, {"prompt": "Why?"}]
    found, notes = _dry_run(folder, lines)
    assert found.visual_tokens == 0 and len(notes) == 1 and "left out" in notes[0]
    with pytest.raises(InputError, match="none of the training samples"):
        _dry_run(folder, [{"image": "damaged.png"}] * 2)
    with pytest.raises(OptionError, match="hidden"):
        _dry_run(folder, [{"prompt": "What?"}], kind="model", hidden=7)


def test_running_out_of_memory_gives_advice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compute_loss(self: object, example: object) -> None:
        raise MemoryError

    monkeypatch.setattr("sage_core.distill.head_student.HeadStudent.compute_loss", compute_loss)
    with pytest.raises(MemoryExhaustedError, match="--recompute"):
        _dry_run(folder, [{"prompt": "What?"}])


@pytest.mark.parametrize(
    ("limit", "steps", "seconds"),
    [
        ({"steps": 3, "minutes": None}, 3, 3 * 1 + 6 * 10),
        ({"steps": 20, "minutes": None}, 20, 20 * 1 + 10 * 10),
        ({"steps": None, "minutes": 1}, 3, 60),  # a step with two answers takes 21 seconds
        ({"steps": None, "minutes": 2}, 20, 120),  # 5 such steps, and 15 of one second
        ({"steps": 8, "minutes": 2}, 8, 8 * 1 + 10 * 10),
    ],
)
def test_run_length_counts_each_answer_once(
    limit: dict[str, int | None], steps: int, seconds: float
) -> None:
    found = run_length(distill_runs.options(**limit), samples=10, step=1.0, answer=10.0)
    assert found == (steps, pytest.approx(seconds))

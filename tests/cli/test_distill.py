"""``sage distill`` on a tiny target."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sage_cli.app import app
from sage_cli.options.distill import SharedFlags, TrainingFlags, distill_options
from sage_core.distill.options import DistillOptions
from tests.core import distill_runs

SHORT = ("--steps", "2", "--batch", "2", "--max-new-tokens", "8", "--device", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return distill_runs.save_data(tmp_path_factory.mktemp("distill"))


def _sage(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_train_resume_and_use_the_draft(data: tuple[Path, Path], tmp_path: Path) -> None:
    target, pictures = data
    lines = [json.dumps({"image": str(path)}) for path in sorted(pictures.iterdir())]
    listed = tmp_path / "data.jsonl"
    listed.write_text("\n".join([*lines, "nonsense"]), encoding="utf-8")
    own = ("--target", target, "--data", listed, "--output", tmp_path / "head")
    code, out, err = _sage("distill", *own, *SHORT, "--json")
    assert code == 0, err
    report = json.loads(out)  # nothing else is on standard output
    assert report["kind"] == "head" and report["steps"] == 2
    assert len(report["by_depth"]) == 6 and {s["draft"] for s in report["speeds"]} == {
        "none",
        "new",
    }
    assert f"{listed}:7: not valid JSON: Expecting value" in err and "τ" in err

    code, out, err = _sage("distill", *own, *SHORT, "--quiet")
    assert code == 3 and "--resume" in err and not out
    code, out, err = _sage("distill", *own, *SHORT, "--steps", "3", "--resume", "--quiet")
    assert code == 0 and "3 steps" in out and "tokens/s" in out
    assert err.count("\n") == 1, err  # the invalid line

    picture = next(pictures.iterdir())
    ask = ("caption", picture, "--model", target, "--device", "cpu", "--max-new-tokens", "12")
    plain = _sage(*ask, "--draft", "none", "--quiet")
    assert plain[0] == 0
    assert _sage(*ask, "--draft", tmp_path / "head", "--quiet")[:2] == plain[:2]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "give steps or minutes"),
        (("--steps", "1", "--kind", "tail"), 2, "tail"),
        (("--steps", "1", "--minutes", "-1"), 2, "minutes"),
        (("--steps", "1", "--kind", "specvlm", "--mode", "squeeze"), 2, "squeeze"),
        (("--steps", "1", "--kind", "specvlm", "--ratio", "9"), 2, "ratio"),
        (("--steps", "1", "--kind", "model", "--hidden", "7"), 2, "hidden"),
        (("--steps", "1", "--data", "gone"), 3, "no such file"),
        (("--steps", "1", "--target", "gone"), 4, "gone"),
    ],
)
def test_invalid_options_and_inputs_are_refused_in_one_line(
    data: tuple[Path, Path], tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    target, pictures = data
    given = ("--target", target, "--data", pictures, "--output", tmp_path / "out", "--quiet")
    found, out, err = _sage("distill", *given, *arguments)
    assert found == code and words in err, err
    assert not out and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_data_and_output_are_checked_before_the_target_is_loaded(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    """A missing target would give another message and exit code."""
    given = ("distill", "--target", tmp_path / "none", "--steps", "1", "--output", tmp_path)
    code, _, err = _sage(*given, "--data", tmp_path / "gone")
    assert code == 3 and err == f"sage: {tmp_path / 'gone'}: no such file: check the path\n"
    (tmp_path / "state.pt").touch()
    code, _, err = _sage(*given, "--data", data[1])
    assert code == 3 and "holds a run: continue it with --resume" in err
    assert _sage(*given, "--data", data[1], "--resume")[0] == 4


def test_a_dry_run_measures_a_step_and_writes_nothing(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    given = ("--target", data[0], "--data", data[1], "--output", output, "--dry-run")
    code, out, err = _sage("distill", *given, *SHORT, "--kind", "vispec", "--quiet")
    assert code == 0 and not err
    assert "peak memory" in out and "a step of 2 such samples" in out and "2 steps" in out
    code, out, err = _sage("distill", *given, *SHORT, "--minutes", "0.5", "--json")
    found = json.loads(out)
    assert code == 0 and found["schema"] and found["batch"] == 2 and found["steps"] <= 2
    assert found["peak_memory"] > 0 and found["step_seconds"] > 0 and found["samples"] == 4
    assert not output.exists()
    code, _, err = _sage("distill", *given)
    assert code == 2 and "steps or minutes" in err


def test_training_options_are_those_of_the_library() -> None:
    """Each is declared once; the command line adds none and leaves none out."""
    training = {field.name: field.default for field in fields(TrainingFlags)}
    shared = {field.name: field.default for field in fields(SharedFlags)}
    for field in fields(DistillOptions):
        assert (training | shared)[field.name] == field.default
    assert not {*training} & {*shared}
    chosen = distill_options(TrainingFlags(steps=3, kind="model"), SharedFlags(seed=7))
    assert chosen == DistillOptions(steps=3, kind="model", seed=7)


def test_data_and_output_are_required() -> None:
    code, _, err = _sage("distill", "--steps", "1")
    assert code == 2 and "--data" in err

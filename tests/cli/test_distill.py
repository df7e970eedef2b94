"""``sage distill`` as a person uses it, on a tiny target."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sage_cli.app import app
from tests.core import distill_runs

SHORT = ("--steps", "2", "--batch", "2", "--max-new-tokens", "8", "--device", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return distill_runs.save_data(tmp_path_factory.mktemp("distill"))


def _sage(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_train_go_on_and_use_the_draft(data: tuple[Path, Path], tmp_path: Path) -> None:
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
    assert f"{listed}:7: is no JSON: left out" in err and "τ" in err

    code, out, err = _sage("distill", *own, *SHORT, "--quiet")
    assert code == 3 and "--resume" in err and not out
    code, out, err = _sage("distill", *own, *SHORT, "--steps", "3", "--resume", "--quiet")
    assert code == 0 and "3 steps" in out and "tokens/s" in out
    assert err.count("\n") == 1, err  # the line that is left out

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
def test_what_cannot_work_is_refused_in_one_line(
    data: tuple[Path, Path], tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    target, pictures = data
    given = ("--target", target, "--data", pictures, "--output", tmp_path / "out", "--quiet")
    found, out, err = _sage("distill", *given, *arguments)
    assert found == code and words in err, err
    assert not out and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_data_and_output_are_looked_at_before_the_target(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    """A target that is not there would be told, with another exit code, if it were asked for."""
    given = ("distill", "--target", tmp_path / "none", "--steps", "1", "--output", tmp_path)
    code, _, err = _sage(*given, "--data", tmp_path / "gone")
    assert code == 3 and err == f"sage: {tmp_path / 'gone'}: no such file: check the path\n"
    (tmp_path / "state.pt").touch()
    code, _, err = _sage(*given, "--data", data[1])
    assert code == 3 and "holds a run: go on with --resume" in err
    assert _sage(*given, "--data", data[1], "--resume")[0] == 4


def test_a_dry_run_reads_no_weights_and_writes_nothing(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    target = tmp_path / "target"
    shutil.copytree(data[0], target)
    for file in target.glob("*.safetensors"):
        file.write_bytes(b"")
    given = ("--target", target, "--data", data[1], "--output", tmp_path / "out", "--dry-run")
    code, out, err = _sage("distill", *given, "--steps", "100", "--kind", "vispec")
    assert code == 0 and "memory in all" in out and "100 steps" in out and not err
    code, out, _ = _sage("distill", *given, "--device", "cpu", "--tflops", "2", "--json")
    plan = json.loads(out)
    assert code == 0 and plan["machine"]["flops"] == 2e12 and not plan["machine"]["gpu"]
    assert plan["peak"] == sum(plan["memory"].values()) + max(plan["passes"].values())
    code, _, err = _sage("distill", *given, "--utilisation", "3")
    assert code == 2 and "machine" in err
    assert not (tmp_path / "out").exists()


def test_data_and_output_are_asked_for() -> None:
    code, _, err = _sage("distill", "--steps", "1")
    assert code == 2 and "--data" in err

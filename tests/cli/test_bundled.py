"""The command with the bundled pair on the example files: nothing scripted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sage_core
from sage_cli.app import app

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAIR = os.environ.get("SAGE_BUNDLED_PAIR")  # another pair to test with, trained or not
WEIGHTS = Path(sage_core.__file__).parent / "assets" / "sage-tiny" / "target" / "model.safetensors"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PAIR and not WEIGHTS.exists(), reason="the bundled pair is not there"),
]


@pytest.fixture(autouse=True)
def pair(monkeypatch):
    if PAIR:
        monkeypatch.setenv("SAGE_BUNDLED_PAIR", PAIR)


def sage(*arguments: str, stdin: bytes | None = None):
    return CliRunner().invoke(app, list(arguments), input=stdin)


def example(name: str) -> str:
    return str(EXAMPLES / name)


def caption_json(*arguments: str) -> dict:
    result = sage("caption", *arguments, "--json", "--max-new-tokens", "24")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_an_image_a_video_and_standard_input_give_text():
    picture = caption_json(example("shapes.png"))
    assert picture["text"].strip()
    assert 0 < picture["stats"]["new_tokens"] <= 24
    assert picture["models"]["draft"] is not None
    result = sage("caption", "-", "--json", "--max-new-tokens", "24",
                  stdin=Path(example("shapes.png")).read_bytes())  # fmt: skip
    assert json.loads(result.stdout)["tokens"] == picture["tokens"]
    clip = caption_json(example("moving.mp4"), "--frames", "3")
    assert clip["text"].strip()
    assert clip["prompt"] != picture["prompt"]


def test_the_text_is_the_same_with_every_policy():
    texts = {
        tuple(caption_json(example("two.png"), *arguments)["tokens"])
        for arguments in (
            ("--policy", "sage"),
            ("--policy", "static"),
            ("--policy", "chain:length=3"),
            ("--policy", "sage-paper:dmax=4"),
            ("--draft", "none"),
        )
    }
    assert len(texts) == 1


def test_several_files_seen_together():
    result = sage("ask", example("shapes.png"), example("chart.png"), "Which has bars?", "--json",
                  "--max-new-tokens", "8")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["prompt"] == "Which has bars?"


def test_the_whole_run_as_a_page():
    result = sage("caption", example("two.png"), "--max-new-tokens", "16", "--save-view", "v.html")
    assert result.exit_code == 0, result.stderr
    assert Path("v.html").stat().st_size > 5000


def damaged() -> dict[str, bytes]:
    """Names and contents that no result can come from."""
    picture = (EXAMPLES / "shapes.png").read_bytes()
    clip = (EXAMPLES / "moving.mp4").read_bytes()
    return {
        "empty.png": b"",
        "empty.mp4": b"",
        "truncated.png": picture[: len(picture) // 3],
        "truncated.mp4": clip[: len(clip) // 3],
        "text.mp4": b"This is a text and no video.\n" * 40,
        "noise.jpg": bytes(range(256)) * 8,
    }


def test_each_unreadable_file_is_reported_in_one_line(capfd):
    files = damaged()
    for name, content in files.items():
        Path(name).write_bytes(content)
    Path("folder.png").mkdir()
    names = [*files, "folder.png", "missing.png"]
    result = sage("caption", *names, example("two.png"), "--quiet", "--max-new-tokens", "4")
    assert result.exit_code == 3
    assert result.stdout.count("==>") == 1  # the good one is still done
    lines = result.stderr.splitlines()
    assert len(lines) == len(names)
    for name, line in zip(names, lines, strict=True):
        assert line.startswith(f"sage: {name}: ")
        assert line.count(name) == 1
    # Libraries write to the file descriptors themselves.
    assert capfd.readouterr() == ("", "")


def test_damaged_standard_input_is_reported():
    result = sage("caption", "-", "--quiet", stdin=b"This is a text.\n" * 9)
    assert result.exit_code == 3
    assert result.stderr.startswith("sage: standard input: ")
    assert len(result.stderr.splitlines()) == 1


MODELS = [
    (("--model", "no/such/folder"), 4, "no/such/folder"),
    (("--model", "empty"), 4, "empty"),
    (("--draft", "no/such/draft"), 4, "no/such/draft"),
    (("--device", "abacus"), 2, "abacus"),
    (("--draft", "none", "--policy", "static"), 2, "draft"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), MODELS, ids=[m[2] for m in MODELS])
def test_models_that_cannot_be_used(arguments, code, says, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("empty").mkdir()
    result = sage("caption", example("two.png"), *arguments, "--quiet")
    assert result.exit_code == code
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_models_and_doctor():
    listed = json.loads(sage("models", "--json").stdout)
    assert [m["id"] for m in listed["models"] if m["kind"] == "bundled"] == ["sage-tiny"]
    assert "sage-tiny" in sage("models").stdout
    found = json.loads(sage("doctor", "--json").stdout)
    assert found["chosen"]["device"]
    assert found["versions"]["torch"]
    assert found["chosen"]["note"] in sage("doctor").stdout


def test_as_a_program_with_pipes():
    """The real thing end to end: a process of its own, warnings and all."""
    done = subprocess.run(
        [sys.executable, "-m", "sage_cli", "caption", example("two.png"), "--max-new-tokens", "8"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert len(done.stderr.splitlines()) == 1  # what was chosen, and nothing else

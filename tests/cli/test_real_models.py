"""The README's commands on real models, run as they stand on tiny checkpoints of those names."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from sage_cli.app import app
from sage_core.models.known_pairs import KNOWN, SERIES, drafts_for
from tests.core.saved_families import save

ROOT = Path(__file__).parents[2]
STAND_INS = {
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5_vl",
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": "llava_onevision",
    "Qwen/Qwen3-8B": "qwen3",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3_vl",
    "path/to/target": "llava",
}
"""Each target of the README and the family of tiny models that stands in for it."""
ALSO = {"Qwen/Qwen3-VL-4B-Instruct": "qwen3_vl", "path/to/draft": "llava"}
"""Drafts that the README names itself."""


def commands() -> list[str]:
    """The lines of the README's block on real models, without their comments."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Real models")[1]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [line.split("  #")[0].strip() for line in block[1].splitlines() if line.strip()]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub cache, and folders, with tiny checkpoints under the names of the README."""
    root = tmp_path_factory.mktemp("models")
    drafts = {drafts_for(name)[0]: kind for name, kind in STAND_INS.items() if drafts_for(name)}
    for name, kind in {**STAND_INS, **ALSO, **drafts}.items():
        folder = root / name
        if not name.startswith("path/"):
            base = root / f"models--{name.replace('/', '--')}"
            folder = base / "snapshots" / ("0" * 40)
            (base / "refs").mkdir(parents=True)
            (base / "refs" / "main").write_text("0" * 40)
        target = name in STAND_INS
        save(folder, kind, layers=2 if target else 1, seed=0 if target else 1)
    return root


@pytest.fixture(autouse=True)
def offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    Path("path").symlink_to(cache / "path", target_is_directory=True)
    Image.open(ROOT / "examples" / "shapes.png").convert("RGB").save("photo.jpg")
    shutil.copy(ROOT / "examples" / "moving.mp4", "clip.mp4")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.slow
@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_readme(line: str) -> None:
    program, command, *arguments = shlex.split(line)
    assert program == "sage"
    if command == "models":
        result = run(command, *arguments)
        assert result.exit_code == 0
        assert all(name in result.stdout for name in STAND_INS if not name.startswith("path/"))
        return
    result = run(command, *arguments, "--json", "--max-new-tokens", "8")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    target = arguments[arguments.index("--model") + 1].split("@")[0]
    assert target in STAND_INS
    named = arguments[arguments.index("--draft") + 1] if "--draft" in arguments else None
    assert answer["models"]["draft"] == (named or drafts_for(target)[0])
    assert 0 < answer["stats"]["new_tokens"] <= 8
    assert re.search(r"on the CPU.* in \w+: about \d+ MiB of [\d.]+ GiB free", result.stderr)
    assert answer["dtype"] == ("bfloat16" if "bfloat16" in line else "float32")


def test_models_are_listed_with_what_is_here() -> None:
    listed = json.loads(run("models", "--json").stdout)
    here = {model["id"]: model for model in listed["models"]}
    target, draft = "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"
    assert (here[target]["draft"], here[target]["draft_cached"]) == (draft, True)
    known = {pair["target"]: pair for pair in listed["known_pairs"]}
    assert set(known) <= set(KNOWN)
    assert target not in known  # whole: it is among the models
    larger = known["Qwen/Qwen2.5-VL-72B-Instruct"]
    assert (larger["target_cached"], larger["draft"]) == (False, target)
    assert larger["drafts_cached"] == [target, draft]
    table = run("models").stdout
    assert re.search(r"Qwen2\.5-VL +Qwen/Qwen2\.5-VL-72B-Instruct +\S+ +target *\n", table)


def test_the_drafts_of_a_model_are_listed_with_reasons(cache: Path) -> None:
    target = "Qwen/Qwen2.5-VL-7B-Instruct"
    listed = json.loads(run("models", "--for", target, "--json").stdout)
    assert listed["model"] == target
    best = listed["drafts"][0]
    assert best == {
        "id": "Qwen/Qwen2.5-VL-3B-Instruct",
        "reason": "a known pair",
        "cached": True,
        "automatic": True,
    }
    save(Path("tuned"), "llava", layers=2, seed=0)
    assert "--draft ngram needs none" in run("models", "--for", "tuned").stdout
    result = run("models", "--for", "nothing/here")
    assert result.exit_code != 0


def test_a_copy_under_another_name_gets_the_draft_of_its_base(cache: Path) -> None:
    base = "Qwen/Qwen2.5-VL-7B-Instruct"
    folder = cache / f"models--{base.replace('/', '--')}" / "snapshots" / ("0" * 40)
    shutil.copytree(folder, "tuned")
    card = f"---\nbase_model: {base}\n---\n"
    Path("tuned/README.md").write_text(card, encoding="utf-8")
    config = json.loads(Path("tuned/config.json").read_text(encoding="utf-8"))
    table = run("models", "--for", "tuned").stdout
    size = config["text_config"]["vocab_size"]
    assert size < 1000  # a stand-in has another vocabulary than the known model
    assert "its card" not in table
    assert re.search(r"Qwen/Qwen2\.5-VL-3B-Instruct +smaller, with its tokenizer +yes", table)
    answer = run("ask", "photo.jpg", "What?", "--model", "tuned", "--json")
    assert json.loads(answer.stdout)["models"]["draft"] == "Qwen/Qwen2.5-VL-3B-Instruct", (
        answer.stderr
    )
    assert "smaller, with its tokenizer" in answer.stderr


def test_the_doctor_knows_what_is_missing_for_fewer_bits() -> None:
    text = run("doctor").stdout
    for name in ("8bit", "4bit", "int8", "int4"):
        assert f"quantization {name}" in text
    assert "huggingface_hub" in text


def test_the_table_of_pairs_in_the_documentation() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for series in SERIES:
        if series.name.endswith("Thinking"):  # a sentence says that they pair as the others do
            continue
        for size, drafts in series.drafts.items():
            line = f"| `{series.pattern.format(size)}` | {', '.join(drafts.split())} |"
            assert line in page, line

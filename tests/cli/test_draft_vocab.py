"""sage draft-vocab writes a list of tokens, and --draft-vocab uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sage_cli.app import app
from tests.core.saved_pair import save_pair

TEXT = "A red circle stands above a small blue square. The red circle is large.\n"


def test_a_list_is_counted_and_used(tmp_path: Path) -> None:
    """A pair on disk with its own tokenizer, on its own answer."""
    pair = str(save_pair(tmp_path / "pair"))

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--model", pair])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    asking = ("ask", "one two", "--jsonl", "--max-new-tokens", "24", "--policy", "static")
    answer = run(*asking)
    Path("answers.jsonl").write_text(answer, encoding="utf-8")
    run("draft-vocab", "answers.jsonl", "--size", "20", "--output", "list.json")
    counted = json.loads(Path("list.json").read_text(encoding="utf-8"))
    tokens = json.loads(answer)["tokens"]
    assert counted["tokenizer"] == pair and counted["counted"] == len(tokens)
    assert counted["ids"] and set(counted["ids"]) <= set(tokens)
    assert len(counted["ids"] + counted["always"]) <= 20
    assert json.loads(run(*asking, "--draft-vocab", "list.json"))["tokens"] == tokens


def test_text_from_standard_input_to_standard_output(sage) -> None:
    done = sage("draft-vocab", "-", stdin=TEXT)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["ids"]
    assert "100.00% of the" in done.stderr
    assert "sage" not in sage("draft-vocab", "-", "--quiet", stdin=TEXT).stderr


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "no files": (["draft-vocab"], 2, "no files to count tokens in"),
    "no such file": (["draft-vocab", "none.txt"], 3, "none.txt: no such file"),
    "no text": (["draft-vocab", "binary"], 3, "binary: not"),
    "no such model": (["draft-vocab", "text", "--model", "./none"], 4, "no such folder"),
    "nothing kept": (["draft-vocab", "text", "--size", "0"], 2, "--size"),
    "no such folder": (["draft-vocab", "text", "--output", "none/v.json"], 2, "no folder"),
    "without a draft": (["caption", "a.png", "--draft", "none", "--draft-vocab", "9"], 2, "draft"),
    "looked up": (["caption", "a.png", "--draft", "ngram", "--draft-vocab", "9"], 2, "draft"),
    "no tokens": (["caption", "a.png", "--draft-vocab", "0"], 2, "at least 1"),
    "benchmark without a draft": (
        ["bench", "a.png", "--draft", "ngram", "--draft-vocab", "9"],
        2,
        "draft",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, sage, loads) -> None:
    arguments, code, message = REFUSED[name]
    Path("text").write_text(TEXT, encoding="utf-8")
    Path("binary").write_bytes(b"\0\1\2")
    done = sage(*arguments)
    assert done.exit_code == code, done.stderr
    assert message in done.stderr
    assert done.stdout == "" and not loads.calls, "nothing is loaded for it"


def test_the_option_reaches_the_pipeline(sage, pipeline) -> None:
    sage("caption", "a.png", "--draft-vocab", "4096")
    sage("caption", "a.png", "--draft-vocab", "list.json")
    sage("caption", "a.png")
    assert [call.get("draft_vocab") for call in pipeline.calls] == ["4096", "list.json", None]

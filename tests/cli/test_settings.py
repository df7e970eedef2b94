"""Flag before environment before file before default; unknown keys are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sage_cli.options.settings import default_path


def write(text: str, path: Path | None = None) -> None:
    path = path or default_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def limit(pipeline) -> int:
    return pipeline.calls[-1]["max_new_tokens"]


def test_precedence(sage, pipeline):
    sage("caption", "a.png")
    assert limit(pipeline) == 256
    write("max-new-tokens = 10\n")
    sage("caption", "a.png")
    assert limit(pipeline) == 10
    sage("caption", "a.png", SAGE_MAX_NEW_TOKENS="20")
    assert limit(pipeline) == 20
    sage("caption", "a.png", "--max-new-tokens", "30", SAGE_MAX_NEW_TOKENS="20")
    assert limit(pipeline) == 30


def test_a_command_s_table_goes_before_the_top_level(sage, pipeline):
    write('max-new-tokens = 10\nprompt = "All"\n[caption]\nprompt = "Colours"\n'
          "[ask]\nmax-new-tokens = 5\n")  # fmt: skip
    sage("caption", "a.png")
    assert (limit(pipeline), pipeline.calls[-1]["prompt"]) == (10, "Colours")
    sage("ask", "a.png", "What?")
    assert (limit(pipeline), pipeline.calls[-1]["prompt"]) == (5, "What?")


def test_another_file(sage, pipeline):
    write("max-new-tokens = 10\n")
    write("seed = 4\n", Path("mine.toml"))
    sage("caption", "a.png", "--config", "mine.toml")
    assert (limit(pipeline), pipeline.calls[-1]["seed"]) == (256, 4)
    sage("caption", "a.png", SAGE_CONFIG="mine.toml")
    assert pipeline.calls[-1]["seed"] == 4


def test_switches(sage, pipeline):
    write("stats = true\nquiet = true\n")
    assert "draft passes" in sage("caption", "a.png").stderr
    assert pipeline.note not in sage("caption", "a.png").stderr
    assert "draft passes" not in sage("caption", "a.png", SAGE_STATS="0").stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_new_tokens = 3", "unknown setting 'max_new_tokens'"),
        ("wings = 2", "unknown setting 'wings'"),
        ("output = 'x'", "unknown setting 'output'"),
        ("config = 'x'", "unknown setting 'config'"),
        ("[ask]\nprompt = 'x'", "unknown setting 'prompt'"),
        ("[fly]\nseed = 1", "[fly]"),
        ("[models]\nverbose = true", "[models]"),
        ("stats = 'yes'", "true or false"),
        ("max-new-tokens = true", "a number or a string"),
        ("max-new-tokens = [1]", "a number or a string"),
        ("max-new-tokens = 'many'", "max-new-tokens"),
        ("max-new-tokens = 0", "max-new-tokens"),
        ("dtype = 'float8'", "dtype"),
        ("seed = ", "not valid TOML"),
    ],
)
def test_invalid_settings_are_refused(sage, loads, text, says):
    write(text)
    result = sage("caption", "a.png")
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", " ").split())
    assert loads.calls == []


def test_every_documented_variable_and_key_exists(sage, pipeline):
    """The example in the documentation is accepted as it stands."""
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    example = text.split("```toml\n")[1].split("```")[0]
    write(example)
    assert sage("caption", "a.png").exit_code == 0
    assert pipeline.calls[-1]["prompt"].startswith("Describe this for")
    assert limit(pipeline) == 200


def test_help_needs_no_settings(sage):
    write("wings = 2")
    assert sage("caption", "--help").exit_code == 0


def test_files_that_nest_too_deeply_or_are_no_files_are_refused(sage, loads, tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000 + "]" * 100_000)
    (tmp_path / "deep.toml").write_text("a = " + "[" * 900 + "]" * 900)
    os.mkfifo(tmp_path / "pipe")
    for name, says in (("deep", "nested deeper"), ("pipe", "is a pipe")):
        kinds = ("deep.toml", "deep.json") if name == "deep" else ("pipe", "pipe")
        toml, other = (str(tmp_path / kind) for kind in kinds)
        for options in (
            ("--config", toml),
            ("--policy", f"static:tree={other}"),
            ("--policy", f"optimal-static:table={other}"),
        ):
            result = sage("caption", "a.png", *options)
            assert result.exit_code == 2 and says in result.stderr, options
    assert not loads.calls


def test_a_schema_that_cannot_be_read_is_refused(sage, loads, tmp_path):
    schema = tmp_path / "schema.json"
    result = sage("ask", "a.png", "What?", "--json-schema", str(schema))
    assert result.exit_code == 2 and "no such file" in result.stderr
    schema.write_bytes(b"\xff")
    result = sage("ask", "a.png", "What?", "--json-schema", str(schema))
    assert result.exit_code == 2 and "schema.json: not UTF-8" in result.stderr
    assert not loads.calls


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\0"])
def test_a_list_of_names_may_have_a_mark_and_odd_characters(sage, tmp_path, ends):
    names = ["a.png", "b\u2028c.png"]
    Path(names[1]).write_bytes(Path("a.png").read_bytes())
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbf" + ends.join(names).encode() + ends.encode())
    result = sage("caption", "--files-from", str(tmp_path / "list"), "--jsonl")
    assert result.exit_code == 0, result.stderr
    assert [json.loads(line)["files"] for line in result.stdout.split("\n")[:-1]] == [
        [name] for name in names
    ]

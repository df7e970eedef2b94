"""Options about prompts and texts, presets, and what is printed of a text that is edited."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sage_cli.options.settings import default_path
from sage_cli.render.frame import History
from sage_core.errors import OptionError
from tests.cli.fake import Script, scripted
from tests.cli.test_commands import TEXT


def write_settings(text: str) -> None:
    default_path().parent.mkdir(parents=True, exist_ok=True)
    default_path().write_text(text)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--prefix", "ohwx, "], {"prefix": "ohwx, "}),
        (["--suffix", " end"], {"suffix": " end"}),
        (["--start-with", "A photo"], {"start_with": "A photo"}),
        (["--max-sentences", "2"], {"max_sentences": 2}),
        (["--end-at-sentence"], {"end_at_sentence": True}),
        (["--strip-thinking"], {"strip_thinking": True}),
        (["--stop-repetition", "--retry"], {"stop_repetition": True, "retry": True}),
        (["--system", "Be brief."], {"system": "Be brief."}),
    ],
)
@pytest.mark.parametrize("command", ["caption", "ask"])
def test_options_reach_the_decoder(sage, pipeline, command, arguments, options):
    files = ["a.png"] if command == "caption" else ["a.png", "What?"]
    assert sage(command, *files, *arguments).exit_code == 0
    call = pipeline.calls[-1]
    assert {name: call.get(name) for name in options} == options


def test_a_prompt_for_each_file(sage, pipeline):
    Path("a.txt").write_text("dog, tree\n")
    result = sage("caption", "a.png", "b.png", "--prompt", "{index}: {stem} has {sidecar}.")
    assert result.exit_code == 0
    assert [c["prompt"] for c in pipeline.calls] == ["1: a has dog, tree.", "2: b has ."]


def test_a_sidecar_that_cannot_be_read_is_an_error_of_its_file(sage, pipeline):
    Path("a.txt").write_bytes(b"\xff")
    result = sage("caption", "a.png", "b.png", "--prompt", "{sidecar}", "--jsonl")
    assert result.exit_code == 3
    first, second = map(json.loads, result.stdout.splitlines())
    assert "a.txt: not UTF-8" in first["error"]["message"]
    assert second["text"]


def test_prompt_files(sage, pipeline):
    Path("p.txt").write_text("\ufeffWhat is {name}?\n", encoding="utf-8")
    sage("caption", "a.png", "--prompt-file", "p.txt")
    assert pipeline.calls[-1]["prompt"] == "What is a.png?"
    sage("ask", "a.png", "--prompt-file", "p.txt")
    assert pipeline.calls[-1] == {**pipeline.calls[-1], "prompt": "What is a.png?",
                                  "files": ["a.png"]}  # fmt: skip


def test_a_preset_gives_prompt_and_options(sage, pipeline):
    assert sage("caption", "a.png", "--preset", "alt-text").exit_code == 0
    call = pipeline.calls[-1]
    assert "alternative text" in call["prompt"]
    assert (call["max_new_tokens"], call["max_sentences"]) == (80, 2)
    sage("ask", "a.png", "b.png", "--preset", "alt-text")
    assert len(pipeline.calls[-1]["files"]) == 2
    assert "alternative text" in pipeline.calls[-1]["prompt"]


def test_what_comes_before_a_preset(sage, pipeline):
    write_settings('max-new-tokens = 7\nmax-sentences = 9\n[caption]\nprompt = "Mine"\n')
    sage("caption", "a.png", "--preset", "alt-text", "--max-new-tokens", "256",
         SAGE_SUFFIX="!", SAGE_MAX_SENTENCES="5")  # fmt: skip
    call = pipeline.calls[-1]
    assert (call["max_new_tokens"], call["max_sentences"], call["suffix"]) == (256, 5, "!")
    assert "alternative text" in call["prompt"]
    sage("caption", "a.png", "--preset", "alt-text", "--prompt", "Given")
    assert (pipeline.calls[-1]["prompt"], pipeline.calls[-1]["max_sentences"]) == ("Given", 2)
    sage("ask", "a.png", "What is it?", "--preset", "alt-text")
    assert (pipeline.calls[-1]["prompt"], pipeline.calls[-1]["max_sentences"]) == ("What is it?", 2)


def test_own_presets(sage, pipeline):
    write_settings(
        '[presets]\nplain = "Name it: {stem}"\n'
        '[presets.mine]\nprompt = "Describe."\nprefix = "ohwx, "\ntemperature = 1\nsample = true\n'
        '[presets.short]\nprompt = "Shorter."\n'
    )
    sage("caption", "a.png", "--preset", "plain")
    assert pipeline.calls[-1]["prompt"] == "Name it: a"
    sage("caption", "a.png", "--preset", "mine")
    call = pipeline.calls[-1]
    assert (call["prompt"], call["prefix"], call["temperature"]) == ("Describe.", "ohwx, ", 1.0)
    sage("caption", "a.png", SAGE_PRESET="short")
    assert pipeline.calls[-1]["prompt"] == "Shorter."
    result = sage("presets")
    assert "mine" in result.stdout and "--prefix ohwx" in result.stdout
    listed = {p["name"]: p for p in json.loads(sage("presets", "--json").stdout)["presets"]}
    assert listed["short"]["prompt"] == "Shorter."
    assert listed["short"]["source"] == str(default_path())
    assert listed["ocr"]["source"] == "sage"


USAGE = [
    (("caption", "a.png", "--preset", "none"), "unknown preset 'none': choose from short, long"),
    (("caption", "a.png", "--prompt", "{nme}"), "unknown placeholder {nme}"),
    (("caption", "a.png", "--retry"), "stop_repetition"),
    (("caption", "a.png", "--prefix", ""), "prefix is empty"),
    (("caption", "a.png", "--prompt-file", "none.txt"), "none.txt: no such file"),
    (("caption", "a.png", "--prompt-file", "empty.txt"), "the file is empty"),
    (("caption", "a.png", "--prompt-file", "p.txt", "--prompt", "x"), "exclude each other"),
    (("ask", "a.png", "What?", "--prompt-file", "p.txt"), "exclude each other"),
    (("ask", "a.png", "b.png", "--prompt-file", "stem.txt"), "one file, not 2"),
    (("caption", "a.png", "--json-schema", "none.json"), "none.json: no such file"),
    (("caption", "a.png", "--json-schema", "s.json", "--prefix", "x"), "leave out prefix"),
    (("caption", "a.png", "--preset", "odd"), "unknown setting 'depth'"),
    (("caption", "a.png", "--preset", "bad"), "preset 'bad'"),
    (("caption", "a.png", "--prompt-file", "p.txt", "--output", "p.txt"), "p.txt"),
]


@pytest.mark.parametrize(("arguments", "says"), USAGE, ids=[says for _, says in USAGE])
def test_nonsense_is_refused_before_models_are_loaded(sage, loads, arguments, says):
    Path("p.txt").write_text("Say it.")
    Path("stem.txt").write_text("Say {stem}.")
    Path("empty.txt").write_text(" \n")
    Path("s.json").write_text("{}")
    write_settings('[presets.odd]\nprompt = "x"\ndepth = 3\n'
                   '[presets.bad]\nprompt = "x"\nmax-sentences = 0\n')  # fmt: skip
    result = sage(*arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert not loads.calls


def test_settings_that_are_no_presets(sage):
    write_settings("[presets]\nmine = 3\n")
    result = sage("caption", "a.png")
    assert (result.exit_code, "preset 'mine'" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "streamed"),
    [
        ((), True),
        (("--stop-repetition",), True),
        (("--max-sentences", "1"), False),
        (("--prefix", "tok, "), False),
    ],
)
def test_a_text_that_may_be_cut_is_not_streamed(sage, pipeline, monkeypatch, arguments, streamed):
    written: list[str] = []
    seen: list[str] = []
    monkeypatch.setattr("sage_cli.jobs.results.stdout_writer", lambda: written.append)
    monkeypatch.setattr("sage_cli.jobs.results.is_terminal", lambda stream: stream is sys.stdout)
    pipeline.enqueue(Script(on_step=lambda index: seen.append("".join(written))))
    assert sage("caption", "a.png", *arguments).exit_code == 0
    assert any(seen) == streamed
    assert "".join(written) == TEXT + "\n"


def test_a_schema_for_captions(sage, pipeline):
    Path("s.json").write_text('{"type": "object"}')
    assert sage("caption", "a.png", "--json-schema", "s.json").exit_code == 0
    assert pipeline.calls[-1]["json_schema"] == '{"type": "object"}'


@pytest.mark.parametrize("batch", ["1", "2"])
def test_a_placeholder_of_the_model_in_a_sidecar(sage, pipeline, batch):
    """An error of the file that the text is from; the others are captioned."""
    Path("a.txt").write_text("<image>")
    pipeline.enqueue(OptionError("the prompt may not contain <image>: write it otherwise"))
    arguments = ("caption", "a.png", "b.png", "--jsonl", "--batch", batch)
    result = sage(*arguments, "--prompt", "{sidecar}")
    first, second = map(json.loads, result.stdout.splitlines())
    assert (result.exit_code, first["error"]["kind"]) == (3, "input")
    assert second["text"]
    pipeline.enqueue(OptionError("the prompt may not contain <image>: write it otherwise"))
    assert sage(*arguments, "--prompt", "<image>").exit_code == 2


def test_the_environment_turns_a_switch_of_a_preset_off(sage, pipeline):
    sage("caption", "a.png", "--preset", "long")
    assert pipeline.calls[-1]["retry"] is True
    assert sage("caption", "a.png", "--preset", "long", SAGE_RETRY="0").exit_code == 0
    assert "retry" not in pipeline.calls[-1]


def test_a_second_attempt_begins_the_figures_anew():
    history = History("a.png", "sage", 256)
    for step in [*scripted((2, 0, 3)), *scripted((1,))]:
        history.add(step)
    assert (history.tokens, history.steps, history.accepted_total) == (3, 1, 1)

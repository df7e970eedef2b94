"""caption and ask: calls of the pipeline, what is printed where, exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sage_cli.exit_codes import ExitCode, code_of, worst
from sage_core.errors import (
    InputError,
    MemoryExhaustedError,
    ModelError,
    OptionError,
    SageError,
    UnsupportedError,
    kind_of,
)
from tests.cli.conftest import PICTURE
from tests.cli.fake import Script, scripted, word

TEXT = "".join(word(t) for step in scripted() for t in step.tokens).strip()


def test_text_to_stdout_and_the_rest_to_stderr(sage, pipeline):
    result = sage("caption", "a.png", "--stats")
    assert result.exit_code == 0
    assert result.stdout == TEXT + "\n"
    assert pipeline.note in result.stderr
    assert "draft passes" in result.stderr


def test_text_streams_as_it_is_committed_to_a_terminal(sage, pipeline, monkeypatch):
    """Each step's words are written before the next step begins."""
    written: list[str] = []
    seen: list[str] = []
    monkeypatch.setattr("sage_cli.jobs.results.stdout_writer", lambda: written.append)
    monkeypatch.setattr("sage_cli.jobs.results.is_terminal", lambda stream: stream is sys.stdout)
    pipeline.enqueue(Script(on_step=lambda index: seen.append("".join(written))))
    assert sage("caption", "a.png").exit_code == 0
    assert seen == ["", "A", "A large red circle", "A large red circle stands"]
    assert "".join(written) == TEXT + "\n"


def test_quiet_says_nothing(sage):
    result = sage("caption", "a.png", "--quiet")
    assert (result.stdout, result.stderr) == (TEXT + "\n", "")


def test_several_captions_are_headed_and_each_its_own(sage, pipeline):
    result = sage("caption", "a.png", "b.png")
    assert result.stdout == f"==> a.png <==\n{TEXT}\n\n==> b.png <==\n{TEXT}\n"
    assert [call["files"] for call in pipeline.calls] == [["a.png"], ["b.png"]]


def test_the_streams_are_closed(sage, pipeline):
    pipeline.enqueue(Script(error=InputError("a.png: damaged")))
    sage("caption", "a.png", "b.png")
    assert [stream.closed for stream in pipeline.streams] == [True, True]


def test_ask_without_files(sage, pipeline):
    result = sage("ask", "What is a spandrel?")
    assert result.exit_code == 0, result.stderr
    assert pipeline.calls[0]["files"] == []
    assert pipeline.calls[0]["prompt"] == "What is a spandrel?"
    assert result.stdout.strip()


def test_ask_gives_all_files_in_one_prompt(sage, pipeline):
    result = sage("ask", "a.png", "b.png", "Which is red?")
    assert result.stdout == TEXT + "\n"
    (call,) = pipeline.calls
    assert call["files"] == ["a.png", "b.png"]
    assert call["prompt"] == "Which is red?"


def test_caption_leaves_the_default_prompt_to_the_pipeline(sage, pipeline):
    sage("caption", "a.png")
    sage("caption", "a.png", "--prompt", "List the colours.")
    assert [call["prompt"] for call in pipeline.calls] == [None, "List the colours."]


def test_options_reach_the_pipeline(sage, pipeline, loads):
    sage(
        *("caption", "a.png", "--model", "m", "--draft", "d", "--device", "cpu"),
        *("--dtype", "bfloat16", "--policy", "sage-paper:dmax=12", "--max-new-tokens", "7"),
        *("--repetition-penalty", "1.2", "--seed", "3", "--frames", "4"),
        *("--start", "1:02.5", "--end", "1:01:00", "--max-pixels", "100"),
        *("--draft-pruning", "0.5", "--draft-pruning-method", "uniform"),
        *("--sample", "--temperature", "0.7", "--top-p", "0.8", "--top-k", "20", "--min-p", "0.1"),
        *("--candidates", "drawn", "--viskip", "0.35"),
    )
    (load,) = loads.calls
    assert (load["target"], load["draft"], load["device"], load["dtype"]) == (
        "m", "d", "cpu", "bfloat16"
    )  # fmt: skip
    (call,) = pipeline.calls
    assert {key: call[key] for key in call if key not in ("files", "prompt")} == {
        "policy": "sage-paper:dmax=12",
        "max_new_tokens": 7,
        "generation": {"repetition_penalty": 1.2},
        "seed": 3,
        "frames": 4,
        "start": 62.5,
        "end": 3660.0,
        "max_pixels": 100,
        "draft_pruning": 0.5,
        "draft_pruning_method": "uniform",
        "sample": True,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "min_p": 0.1,
        "candidates": "drawn",
        "viskip": 0.35,
        "draft_lookup": False,
        "reproducible": False,
    }


def test_options_not_given_are_not_passed(sage, pipeline):
    sage("caption", "a.png")
    (call,) = pipeline.calls
    assert call == {
        "files": ["a.png"], "prompt": None, "max_new_tokens": 256, "seed": 0,
        "draft_lookup": False, "candidates": "topk", "reproducible": False,
    }  # fmt: skip


def test_every_option_passed_is_one_of_the_pipeline(sage, pipeline):
    from dataclasses import fields

    from sage_core.pipeline import Options

    sage("caption", "a.png", "--fps", "2", "--repetition-penalty", "1.2", "--end", "9")
    sage("caption", "a.png", "--frames", "2", "--max-pixels", "9", "--start", "0")
    known = {field.name for field in fields(Options)} | {"files", "prompt"}
    assert {key for call in pipeline.calls for key in call} <= known


def test_without_a_draft_the_policy_is_the_pipeline_s_default(sage, pipeline, loads):
    assert sage("caption", "a.png", "--draft", "none").exit_code == 0
    assert loads.calls[0]["draft"] is None
    assert "policy" not in pipeline.calls[0]


def test_a_policy_that_drafts_needs_a_draft(sage, loads):
    for policy in ("sage", "sage:dmax=3", "static"):
        result = sage("caption", "a.png", "--draft", "none", "--policy", policy)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"sage: policy {policy.partition(':')[0]} needs a draft")
    assert not loads.calls
    assert sage("caption", "a.png", "--draft", "none", "--policy", "autoregressive").exit_code == 0


def test_n_gram_drafts(sage, pipeline, loads):
    sage("caption", "a.png", "--draft", "ngram:nodes=16")
    sage("caption", "a.png", "--draft", "none", "--draft-lookup")
    sage("caption", "a.png", "--policy", "static", "--draft-lookup")
    assert [call["draft"] for call in loads.calls] == ["ngram:nodes=16", None, "auto"]
    asked = [(call.get("policy"), call["draft_lookup"]) for call in pipeline.calls]
    assert asked == [(None, False), (None, True), ("static", True)]


def test_names_from_a_list(sage, pipeline):
    for name in ("one.png", "two words.png", "with\nnewline.png", "x.png", "y.png"):
        Path(name).write_bytes(PICTURE)
    Path("list.txt").write_bytes(b"one.png\r\n\ntwo words.png\n")
    Path("list0.txt").write_bytes(b"one.png\0with\nnewline.png\0")
    sage("caption", "a.png", "--files-from", "list.txt")
    sage("caption", "--files-from", "list0.txt")
    sage("caption", "--files-from", "-", stdin="x.png\ny.png\n")
    sage("ask", "--files-from", "-", "What?", stdin="x.png\ny.png\n")
    assert [call["files"] for call in pipeline.calls] == [
        ["a.png"], ["one.png"], ["two words.png"],
        ["one.png"], ["with\nnewline.png"],
        ["x.png"], ["y.png"],
        ["x.png", "y.png"],
    ]  # fmt: skip


def test_an_image_from_standard_input(sage, pipeline):
    picture = PICTURE + b"\x00\xff"
    result = sage("ask", "-", "b.png", "Same?", stdin=picture, PYTHONUTF8="1")
    assert result.exit_code == 0
    stdin, other = pipeline.calls[0]["files"]
    assert (stdin.read(), stdin.name, other) == (picture, "standard input", "b.png")


def test_empty_standard_input_is_an_input_error(sage):
    result = sage("caption", "-", stdin=b"")
    assert result.exit_code == 3
    assert "standard input is empty" in result.stderr


USAGE = [
    (("caption",), "no files"),
    (("caption", "-", "-"), "only once"),
    (("caption", "-", "--files-from", "-"), "only once"),
    (("ask", "a.png"), "is a file"),
    (("ask", "a.png", " "), "question is empty"),
    (("ask",), "QUESTION"),
    (("caption", "a.png", "--json", "--jsonl"), "exclude"),
    (("caption", "a.png", "--frames", "0"), "--frames"),
    (("caption", "a.png", "--frames", "2", "--fps", "1"), "exclude"),
    (("caption", "a.png", "--fps", "0"), "fps"),
    (("caption", "a.png", "--start", "soon"), "--start"),
    (("caption", "a.png", "--start", "-1"), "--start"),
    (("caption", "a.png", "--start", "9", "--end", "8"), "end"),
    (("caption", "a.png", "--max-new-tokens", "none"), "--max-new-tokens"),
    (("caption", "a.png", "--repetition-penalty", "0"), "repetition-penalty"),
    (("caption", "a.png", "--policy", "clever"), "unknown policy 'clever'"),
    (("caption", "a.png", "--policy", "chain:size=3"), "no option 'size'"),
    (("caption", "a.png", "--draft", "ngram:size=3"), "ngram has no option 'size'"),
    (("caption", "a.png", "--draft", "ngram", "--policy", "autoregressive"), "verifies no drafts"),
    (("caption", "a.png", "--policy", "autoregressive", "--draft-lookup"), "verifies no drafts"),
    (("caption", "a.png", "--viskip", "0"), "viskip must be above 0"),
    (("caption", "a.png", "--viskip", "0.3", "--draft", "ngram"), "viskip needs a draft model"),
    (("caption", "a.png", "--lossy", "lucky"), "unknown lossy rule 'lucky'"),
    (("caption", "a.png", "--lossy", "ears"), "needs candidates drawn"),
    (("caption", "a.png", "--lossy", "ears", "--policy", "autoregressive"), "has none"),
    (("caption", "a.png", "--dtype", "float8"), "--dtype"),
    (("caption", "a.png", "--save-view", "view.pdf"), ".svg or .html"),
    (("caption", "a.png", "b.png", "--save-view", "v.svg"), "one file at a time"),
    (("caption", "a.png", "--save-view", "no/where.svg"), "no folder"),
    (("caption", "a.png", "--output", "."), "is a folder"),
    (("caption", "a.png", "--output", "no/where.txt"), "no folder"),
    (("caption", "a.png", "--output", "v.svg", "--save-view", "v.svg"), "same file"),
    (("caption", "a.png", "--wings"), "--wings"),
    (("caption", "a.png", "--prompt", " \n"), "the prompt is empty"),
    (("caption", "a.png", "--media-memory", "0"), "--media-memory"),
    (("caption", "a.png", "--media-seconds", "nan"), "--media-seconds"),
    (("fly",), "fly"),
    (("caption", "a.png", "--config", "nowhere.toml"), "nowhere.toml"),
]


@pytest.mark.parametrize(("arguments", "says"), USAGE, ids=[" ".join(a) for a, _ in USAGE])
def test_wrong_usage_is_refused_before_anything_is_loaded(sage, loads, arguments, says):
    result = sage(*arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert loads.calls == []


ERRORS = [
    (OptionError("no such option"), ExitCode.USAGE, "usage"),
    (UnsupportedError("no beams"), ExitCode.USAGE, "usage"),
    (InputError("a.png: damaged"), ExitCode.INPUT, "input"),
    (ModelError("no such model"), ExitCode.MODEL, "model"),
    (MemoryExhaustedError("the GPU is full"), ExitCode.MEMORY, "memory"),
    (MemoryError(), ExitCode.MEMORY, "memory"),
    (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), ExitCode.MEMORY, "memory"),
    (OSError(28, "No space left on device"), ExitCode.OTHER, "other"),
    (ZeroDivisionError("a defect"), ExitCode.OTHER, "other"),
    (KeyboardInterrupt(), ExitCode.INTERRUPTED, "other"),
]


@pytest.mark.parametrize(("error", "code", "kind"), ERRORS, ids=lambda v: type(v).__name__)
def test_errors_while_decoding(sage, pipeline, error, code, kind):
    assert code_of(error) is code
    assert kind_of(error) == kind
    pipeline.enqueue(Script(error=error))
    result = sage("caption", "a.png")
    assert result.exit_code == code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if pipeline.note not in line]
    assert len(lines) == 1
    assert lines[0].startswith("sage: ")


@pytest.mark.parametrize(("error", "code", "kind"), ERRORS, ids=lambda v: type(v).__name__)
def test_errors_while_loading(sage, loads, error, code, kind):
    loads.error = error
    result = sage("caption", "a.png", "b.png")
    assert result.exit_code == code
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_every_sage_error_has_its_exit_code():
    kinds = SageError.__subclasses__()
    assert {code_of(kind("x")) for kind in kinds} == {2, 3, 4, 5}


def test_other_files_are_still_processed_and_the_worst_code_is_used(sage, pipeline):
    short = [Script(error=MemoryError()) for _ in range(4)]  # with fewer pixels too
    pipeline.enqueue(InputError("a.png: damaged"), Script(), *short, Script())
    result = sage("caption", "a.png", "b.png", "c.png", "d.png")
    assert result.exit_code == 5
    assert result.stdout == f"==> b.png <==\n{TEXT}\n\n==> d.png <==\n{TEXT}\n"
    assert "a.png: damaged" in result.stderr
    assert "c.png: out of memory" in result.stderr


def test_an_option_refused_by_the_first_stops_the_rest(sage, pipeline):
    pipeline.enqueue(UnsupportedError("beams are not supported"))
    result = sage("caption", "a.png", "b.png")
    assert result.exit_code == 2
    assert len(pipeline.calls) == 1


def test_worst():
    order = [0, 2, 3, 4, 5, 1, 130]
    for i, low in enumerate(order):
        for high in order[i:]:
            assert worst([ExitCode(high), ExitCode(low)]) == high
    assert worst([]) == 0


def test_verbose_shows_the_traceback(sage, pipeline):
    pipeline.enqueue(Script(error=ZeroDivisionError("a defect")))
    assert "Traceback" in sage("caption", "a.png", "--verbose").stderr


def test_verbose_shows_the_traceback_of_a_failed_load_too(sage, loads):
    loads.error = ModelError("no such model")
    assert "Traceback" in sage("caption", "a.png", "--verbose").stderr


def test_names_cannot_write_to_the_terminal(sage, pipeline):
    pipeline.enqueue(InputError("damaged"))
    name = "evil\x1b[2J\n.png"
    missing = sage("caption", name)
    Path(name).write_bytes(PICTURE)
    damaged = sage("caption", name)
    assert "\x1b" not in missing.stderr + damaged.stderr
    assert "evil\\x1b[2J\\n.png: damaged" in damaged.stderr
    assert missing.stderr == "sage: evil\\x1b[2J\\n.png: no such file: check the path\n"


@pytest.mark.parametrize("form", [(), ("--json",), ("--jsonl",)])
def test_nothing_is_loaded_if_no_file_can_be_used(sage, loads, form):
    Path("text.png").write_text("words")
    Path("empty.png").touch()
    Path("folder").mkdir()
    names = ("none.png", "text.png", "empty.png", "folder")
    result = sage("caption", *names, *form)
    assert result.exit_code == 3
    assert loads.calls == []
    reported = result.stderr.splitlines()
    assert [line.split(":")[1].strip() for line in reported] == list(names)
    found = json.loads(result.stdout) if form == ("--json",) else None
    if form == ("--jsonl",):
        found = [json.loads(line) for line in result.stdout.splitlines()]
    if form:
        assert [one["files"] for one in found] == [[name] for name in names]
        assert {one["error"]["exit_code"] for one in found} == {3}
    else:
        assert result.stdout == ""


def test_one_usable_file_is_enough_to_load(sage, loads, pipeline):
    assert sage("caption", "none.png", "a.png").exit_code == 0
    assert len(loads.calls) == 1
    assert [call["files"] for call in pipeline.calls] == [["none.png"], ["a.png"]]
    assert sage("ask", "none.png", "a.png", "What?").exit_code == 3, "it is one question"
    assert len(loads.calls) == 1


def test_version(sage):
    import sage_core

    assert sage("--version").stdout == f"sage {sage_core.__version__}\n"


def test_a_json_schema_reaches_the_pipeline(sage, pipeline, tmp_path):
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object"}')
    sage("ask", "a.png", "What?", "--json-schema", str(file))
    assert pipeline.calls[-1]["json_schema"] == '{"type": "object"}'
    result = sage("ask", "a.png", "What?", "--json-schema", str(tmp_path / "none.json"))
    assert result.exit_code == 2
    assert "none.json: no such file" in result.stderr

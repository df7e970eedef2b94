"""``sage caption --batch``: the same output as one after another, in whatever order texts end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sage_core.errors import InputError, OptionError
from tests.cli.fake import Script
from tests.cli.test_commands import TEXT

FILES = ("a.png", "b.png", "c.png", "d.png", "e.png")


@pytest.mark.parametrize("form", [(), ("--json",), ("--jsonl",)], ids=str)
def test_results_keep_the_order_of_the_files(sage, pipeline, form):
    pipeline.enqueue(Script(), InputError("b.png: damaged"))
    one = sage("caption", *FILES, "--batch", "1", *form)
    pipeline.calls.clear()
    pipeline.enqueue(Script(), InputError("b.png: damaged"))
    many = sage("caption", *FILES, "--batch", "2", *form)
    assert many.stdout == one.stdout and many.exit_code == one.exit_code == 3
    lines = [[line for line in r.stderr.splitlines() if "files/s" not in line] for r in (one, many)]
    assert lines[0] == lines[1] and len(lines[0]) == 2
    assert [(call["files"], call["batch"]) for call in pipeline.calls] == [
        ([name], 2) for name in FILES
    ]


def test_auto_is_the_pipeline_s_batch_size(sage, pipeline):
    sage("caption", "a.png", "b.png")
    type(pipeline).pays = 4
    try:
        sage("caption", "a.png", "b.png")
        sage("caption", "a.png")
        sage("caption", "a.png", "-", stdin="a picture")
        sage("ask", "a.png", "b.png", "What?")
        sage("caption", "a.png", "b.png", "--viskip", "0.35")
    finally:
        type(pipeline).pays = 1
    assert [call.get("batch") for call in pipeline.calls] == [None, None, 2, 2, *[None] * 6]


def test_the_options_of_a_run_apply_to_all_files(sage, pipeline):
    sage("caption", *FILES[:2], "--batch", "2", "--prompt", "What is it?", "--seed", "3")
    assert [(call["prompt"], call["seed"]) for call in pipeline.calls] == [("What is it?", 3)] * 2
    assert "tokens" in sage("caption", *FILES[:2], "--batch", "2", "--stats").stderr


@pytest.mark.parametrize("value", ["2", '"2"', '"auto"'])
def test_the_settings_file_may_set_the_batch_size(sage, pipeline, value):
    Path("sage.toml").write_text(f"[caption]\nbatch = {value}\n")
    assert sage("caption", "a.png", "b.png", "--config", "sage.toml").exit_code == 0
    assert pipeline.calls[0].get("batch") == (None if "auto" in value else 2)


def test_finished_results_are_kept_after_an_interruption(sage, pipeline):
    """The second file has ended when the third is interrupted, the first has been written."""
    pipeline.enqueue(Script(), Script(), Script(error=KeyboardInterrupt()))
    result = sage("caption", *FILES, "--batch", "2", "--jsonl", "--output", "out.jsonl")
    assert result.exit_code == 130
    left = [json.loads(line) for line in Path("out.jsonl.partial").read_text().splitlines()]
    assert [(line["files"], line["text"]) for line in left] == [
        (["a.png"], TEXT), (["b.png"], TEXT)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch", "0"), "neither 'auto' nor a positive integer"),
        (("--batch", "-2"), "neither 'auto' nor a positive integer"),
        (("--batch", "many"), "neither 'auto' nor a positive integer"),
        (("--batch", "2", "--live"), "--live shows one text at a time"),
    ],
)
def test_invalid_batch_sizes_are_refused(sage, arguments, message):
    result = sage("caption", "a.png", "b.png", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_an_option_that_is_wrong_for_all_ends_the_run(sage, pipeline):
    pipeline.enqueue(OptionError("no such thing"))
    result = sage("caption", *FILES, "--batch", "2")
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.count("no such thing") == 1

"""JSON, JSON lines and --output FILE."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from sage_cli.console import display_name
from sage_cli.render.outputs import AtomicFile, write_output
from sage_cli.signals import Interrupted
from sage_core.errors import InputError
from tests.cli.fake import Script, scripted
from tests.cli.test_commands import TEXT

FIELDS = {
    "schema", "files", "prompt", "text", "finish_reason", "models", "device", "dtype", "policy",
    "seed", "sampling", "lossy", "tokens", "stats", "context_reached", "reproducible",
    "edits",
}  # fmt: skip


def test_json_alone_is_on_stdout(sage):
    result = sage("caption", "a.png", "--json", "--stats", "--policy", "sage-paper:dmax=12")
    data = json.loads(result.stdout)
    assert set(data) == FIELDS
    assert data["schema"] == 1
    assert data["files"] == ["a.png"]
    assert data["text"] == TEXT
    assert data["models"] == {"target": "fake-target", "draft": "fake-draft"}
    assert data["policy"] == "sage-paper:dmax=12"
    assert data["finish_reason"] == "eos"
    assert data["stats"]["new_tokens"] == len(data["tokens"]) == 9
    assert data["stats"]["accepted_histogram"] == {"0": 1, "2": 1, "3": 1}


def test_a_lossy_rule_marks_everything(sage, pipeline):
    rule = "spec-vla:first=20,last=29,radius=2"
    pipeline.enqueue(Script(lossy=rule), Script(lossy=rule))
    result = sage("caption", "a.png", "--json", "--stats", "--lossy", rule)
    assert json.loads(result.stdout)["lossy"] == pipeline.calls[0]["lossy"] == rule
    assert f"lossy rule {rule}" in result.stderr
    assert "may differ from the model's own" in result.stderr.split("speed, decoding")[0]
    assert "lossy" not in sage("caption", "a.png", "--quiet", "--lossy", rule).stderr
    assert json.loads(sage("caption", "a.png", "--json").stdout)["lossy"] is None


def test_a_text_that_fills_the_context_says_so(sage, pipeline):
    pipeline.enqueue(*(Script(context_reached=64) for _ in range(3)))
    result = sage("caption", "a.png", "--json")
    assert json.loads(result.stdout)["context_reached"] == 64
    assert "a.png: the text reached the model's context of 64 tokens" in result.stderr
    result = sage("caption", "a.png")
    assert result.stdout.strip() == TEXT
    assert "context of 64" in result.stderr
    assert "context" not in sage("caption", "a.png", "--quiet").stderr
    assert json.loads(sage("caption", "a.png", "--json").stdout)["context_reached"] is None


def test_every_field_is_documented(sage):
    documented = (Path(__file__).parents[2] / "docs" / "output.md").read_text()
    data = json.loads(sage("caption", "a.png", "--json").stdout)
    names = [*data, *data["stats"], *data["stats"]["seconds"], *data["models"]]
    assert [name for name in names if f"`{name}`" not in documented] == []


def test_several_files_give_a_list(sage, pipeline):
    pipeline.enqueue(Script(), InputError("b.png: damaged"))
    result = sage("caption", "a.png", "b.png", "--json")
    first, second = json.loads(result.stdout)
    assert result.exit_code == 3
    assert first["text"] == TEXT
    assert second == {
        "schema": 1,
        "files": ["b.png"],
        "error": {"kind": "input", "exit_code": 3, "message": "b.png: damaged"},
    }


def test_ask_gives_one_object_for_many_files(sage):
    data = json.loads(sage("ask", "a.png", "b.png", "What?", "--json").stdout)
    assert data["files"] == ["a.png", "b.png"]
    assert data["prompt"] == "What?"


def test_lines_come_as_each_is_done(sage, pipeline, capsys):
    """The second text sees the first one's line on the way already."""
    from tests.cli.fake import FakePipeline

    seen: list[int] = []

    class Watching(FakePipeline):
        def stream(self, files, prompt=None, **options):
            if Path("out.jsonl.partial").exists():
                seen.append(Path("out.jsonl.partial").read_text().count("\n"))
            return super().stream(files, prompt, **options)

    pipeline.__class__ = Watching
    pipeline.enqueue(Script(), InputError("damaged"), Script())
    result = sage("caption", "a.png", "b.png", "c.png", "--jsonl", "--output", "out.jsonl")
    assert result.exit_code == 3
    assert seen == [0, 1, 2]
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [("text" in line, line["files"]) for line in lines] == [
        (True, ["a.png"]), (False, ["b.png"]), (True, ["c.png"])
    ]  # fmt: skip


def test_one_failing_file_still_gives_json(sage, pipeline):
    pipeline.enqueue(InputError("a.png: damaged"))
    assert json.loads(sage("caption", "a.png", "--json").stdout)["error"]["kind"] == "input"


def test_odd_file_names_survive(sage):
    name = "caf\udce9 \u2603.png"  # a byte that is no UTF-8, as file names may hold
    data = json.loads(sage("caption", name, "--jsonl").stdout)
    assert data["files"] == [name]


@pytest.mark.parametrize("name", ["a\u2028b.png", "a\nb.png", "\udcff.png", "a\x1b[2J.png"])
def test_an_error_says_an_odd_name_once_and_escaped(sage, name):
    result = sage("caption", name, "--quiet")
    assert result.stderr == f"sage: {display_name(name)}: no such file: check the path\n"


def test_output_file_takes_all_and_stdout_nothing(sage):
    result = sage("caption", "a.png", "--output", "out.txt")
    assert result.stdout == ""
    assert Path("out.txt").read_text() == TEXT + "\n"
    assert sorted(p.name for p in Path().iterdir()) == ["a.png", "b.png", "out.txt"]


def test_a_failure_keeps_the_older_file(sage, pipeline):
    Path("out.txt").write_text("older")
    pipeline.enqueue(InputError("a.png: damaged"))
    assert sage("caption", "a.png", "--output", "out.txt").exit_code == 3
    assert Path("out.txt").read_text() == "older"
    assert sorted(p.name for p in Path().iterdir()) == ["a.png", "b.png", "out.txt"]


def test_a_view_that_cannot_be_saved_costs_no_text(sage, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sage_cli.render.page.write_output", full)
    result = sage("caption", "a.png", "--save-view", "v.svg")
    assert result.stdout == TEXT + "\n"
    assert "--save-view: No space left on device" in result.stderr
    assert result.exit_code == 1


@pytest.fixture
def small_disk(monkeypatch):
    """A disk of as many bytes as the function is called with: more is not written."""

    def limit(room: int) -> None:
        write = os.write

        def written(number, data):
            nonlocal room
            part = bytes(data)[:room]
            room -= len(part)
            if data and not part:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(number, part)

        monkeypatch.setattr("sage_cli.render.outputs.os.write", written)

    return limit


@pytest.mark.parametrize("form", [(), ("--json",), ("--jsonl",)])
def test_a_full_disk_is_one_line_that_names_the_output(sage, pipeline, small_disk, form):
    small_disk(10)
    result = sage("caption", "a.png", "b.png", "--output", "out.txt", "--quiet", *form)
    assert result.exit_code == 1
    assert result.stderr == "sage: out.txt: No space left on device\n"
    assert len(pipeline.calls) == (2 if form == ("--json",) else 1), "no further text is made"
    assert sorted(p.name for p in Path().iterdir()) == ["a.png", "b.png"]


def test_what_was_finished_before_the_disk_was_full_is_whole(sage, pipeline, small_disk):
    one = sage("caption", "a.png", "--jsonl").stdout
    small_disk(len(one) + 10)
    result = sage("caption", "a.png", "b.png", "--jsonl", "--output", "out.txt", "--quiet")
    assert result.exit_code == 1
    assert Path("out.txt.partial").read_text() == one
    assert "out.txt.partial" in result.stderr.splitlines()[0]


def test_a_device_that_is_full_is_named(sage):
    for arguments in (("caption", "a.png"), ("chat", "a.png")):
        result = sage(*arguments, "--output", "/dev/full", "--quiet", stdin="What?\nWhy?\n")
        assert result.exit_code == 1
        assert result.stderr == "sage: /dev/full: No space left on device\n"


def test_an_interruption_keeps_the_older_file_and_what_was_finished(sage, pipeline):
    Path("out.txt").write_text("older")
    pipeline.enqueue(Script(), Script(scripted((1,)), error=KeyboardInterrupt()))
    result = sage("caption", "a.png", "b.png", "--output", "out.txt")
    assert result.exit_code == 130
    assert Path("out.txt").read_text() == "older"
    assert Path("out.txt.partial").read_text() == f"==> a.png <==\n{TEXT}\n"
    assert "out.txt.partial" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(1, 129), (2, 130), (15, 143)])
def test_every_signal_has_its_exit_code(sage, pipeline, number, code):
    pipeline.enqueue(Script(), Script(error=Interrupted(number)))
    result = sage("caption", "a.png", "b.png", "--jsonl")
    assert result.exit_code == code
    assert json.loads(result.stdout)["text"] == TEXT


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_an_interruption_prints_the_json_finished_until_then(sage, pipeline, form):
    pipeline.enqueue(Script(), Script(error=KeyboardInterrupt()))
    result = sage("caption", "a.png", "b.png", form)
    assert result.exit_code == 130
    data = json.loads(result.stdout)
    assert (data[0] if form == "--json" else data)["text"] == TEXT


def test_an_interrupted_text_is_not_a_result_for_a_pipe(sage, pipeline):
    pipeline.enqueue(Script(error=KeyboardInterrupt()))
    assert sage("caption", "a.png").stdout == ""


def test_devices_are_written_not_replaced(sage):
    assert sage("caption", "a.png", "--output", "/dev/null").exit_code == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_atomic_file_follows_links_and_keeps_the_mode(tmp_path):
    real = tmp_path / "real.txt"
    real.write_text("older")
    real.chmod(0o640)
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    write_output(link, "newer")
    assert link.is_symlink()
    assert real.read_text() == "newer"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_abandoned_and_empty_leaves_nothing(tmp_path):
    file = AtomicFile(tmp_path / "work" / "new.txt")
    assert file.abandon() is None
    assert not file.partial.exists()

"""No command line loses files or results, or loads models for nothing."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sage_cli.render.outputs import AtomicFile, check_writable, write_output
from sage_core.errors import OptionError
from tests.cli.conftest import PICTURE
from tests.cli.fake import Script
from tests.cli.test_commands import TEXT
from tests.cli.test_terminal import PROGRAM, environment, text

SAGE = f"{sys.executable} -m sage_cli"
FAKE = " ".join(PROGRAM)
SAID = text(3)


def shell(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env=environment(**env),
        timeout=60,
    )


@pytest.mark.parametrize(
    ("output", "redirected"),
    [
        ("/dev/stdout", ">> log.txt"),
        ("/dev/stderr", "2>> log.txt"),
        ("/dev/fd/1", ">> log.txt"),
        ("/proc/self/fd/3", "3>> log.txt"),
        ("/dev/../dev/fd/3", "3>> log.txt"),
        ("link", ">> log.txt"),
        ("/dev/stdout", "1<> log.txt"),
    ],
)
def test_open_file_descriptors_are_written_and_not_replaced(output, redirected):
    Path("log.txt").write_text("" if "<>" in redirected else "earlier\n")
    Path("link").symlink_to("/dev/stdout")
    before = Path("log.txt").stat().st_ino
    done = shell(f"{FAKE} caption a.png --quiet --output {output} {redirected}; echo $?")
    assert done.stdout in ("0\n", f"{SAID}\n0\n")
    assert Path("log.txt").read_text().removeprefix("earlier\n") == SAID + "\n"
    assert Path("log.txt").stat().st_ino == before
    assert Path("link").is_symlink()
    assert not list(Path().glob("*.partial*"))


def test_a_group_of_commands_shares_its_file_in_order():
    done = shell(f"(echo one; {FAKE} caption a.png --quiet --output /dev/stdout; echo two) > log")
    assert done.returncode == 0
    assert Path("log").read_text() == f"one\n{SAID}\ntwo\n"


def test_descriptors_that_are_not_open_are_refused():
    with pytest.raises(OptionError, match="not an open file"):
        check_writable(Path("/dev/fd/987"), "--output")


def test_files_under_dev_are_files():
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm here")
    path = Path(f"/dev/shm/sage-test-{os.getpid()}.txt")
    try:
        path.write_text("older")
        file = AtomicFile(path)
        file.write("newer")
        assert path.read_text() == "older"
        file.commit()
        assert path.read_text() == "newer"
    finally:
        path.unlink(missing_ok=True)


def test_a_second_run_with_one_name_is_refused(sage, loads):
    running = AtomicFile(Path("both.txt"))
    running.write("first")
    Path("link.txt").symlink_to("both.txt")
    for name in ("both.txt", "link.txt"):
        for command in (("caption", "a.png"), ("chat", "a.png")):
            result = sage(*command, "--output", name, stdin="What?\n")
            assert result.exit_code == 2
            assert "both.txt: another run is writing this file" in result.stderr
    assert loads.calls == []
    running.commit()
    assert Path("both.txt").read_text() == "first"
    assert sage("caption", "a.png", "--output", "both.txt").exit_code == 0
    assert Path("both.txt").read_text() == TEXT + "\n"
    assert not list(Path().glob("*.partial*"))


def test_a_lock_on_the_folder_by_whoever_started_the_run_is_waited_for_briefly(sage):
    folder = os.open(".", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert sage("caption", "a.png", "--output", "out.txt").exit_code == 0
    os.close(folder)


def test_the_partial_file_of_a_run_that_was_killed_does_not_block(sage):
    code = (
        "import os, signal; from pathlib import Path; from sage_cli.render.outputs import *;"
        "AtomicFile(Path('out.txt')).write('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], env=environment())
    assert killed.returncode == -signal.SIGKILL
    assert sage("caption", "a.png", "--output", "out.txt").exit_code == 0
    assert Path("out.txt.partial").read_text() == "half"


@pytest.mark.parametrize("name", ["n" * 255, "\u00e9" * 127])
@pytest.mark.parametrize("option", ["--output", "--save-view"])
def test_the_longest_names_work(sage, name, option):
    name = name if option == "--output" else name[:-5] + ".html"
    assert sage("caption", "a.png", option, name).exit_code == 0
    assert "large" in Path(name).read_text()
    assert sorted(path.name for path in Path().iterdir()) == sorted(["a.png", "b.png", name])


@pytest.mark.parametrize("option", ["--output", "--save-view"])
def test_names_that_no_file_can_have_are_refused_before_loading(sage, loads, option):
    result = sage("caption", "a.png", option, "n" * 256 + ".html")
    assert result.exit_code == 2
    assert "File name too long" in result.stderr
    assert loads.calls == []


def test_an_older_partial_file_is_left_as_it_is(sage, pipeline):
    Path("out.txt.partial").write_text("of an earlier run")
    Path("out.txt.partial.2").mkdir()
    pipeline.enqueue(Script(), Script(error=KeyboardInterrupt()))
    result = sage("caption", "a.png", "b.png", "--output", "out.txt")
    assert result.exit_code == 130
    assert "out.txt.partial.3" in result.stderr
    assert TEXT in Path("out.txt.partial.3").read_text()
    assert sage("caption", "a.png", "--output", "out.txt").exit_code == 0
    write_output(Path("out.txt"), "newer")
    assert Path("out.txt").read_text() == "newer"
    assert Path("out.txt.partial").read_text() == "of an earlier run"


@pytest.mark.parametrize(
    "arguments",
    [
        ("caption", "a.png", "b.png", "--output", "b.png"),
        ("caption", "a.png", "--output", "./link.png"),
        ("caption", "a.png", "--output", "hard.png"),
        ("caption", "--files-from", "list.txt", "--output", "a.png"),
        ("caption", "--files-from", "list.txt", "--output", "list.txt"),
        ("caption", "view.html", "--save-view", "view.html"),
        ("ask", "a.png", "What?", "--output", "a.png"),
        ("chat", "a.png", "--output", "a.png"),
        ("ask", "What?", "--json-schema", "list.txt", "--output", "list.txt"),
        ("ask", "What?", "--json-schema", "list.txt", "--save-view", "list.txt"),
        ("caption", "a.png", "--draft-vocab", "list.txt", "--output", "list.txt"),
        ("draft-vocab", "list.txt", "--output", "list.txt"),
    ],
    ids=" ".join,
)
def test_an_input_is_not_overwritten(sage, loads, arguments):
    Path("link.png").symlink_to("a.png")
    Path("hard.png").hardlink_to("a.png")
    Path("view.html").write_bytes(PICTURE)
    Path("list.txt").write_text("a.png\n")
    result = sage(*arguments)
    assert result.exit_code == 2
    assert "would overwrite the input" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert loads.calls == []
    assert {Path(name).read_bytes() for name in ("a.png", "b.png", "view.html")} == {PICTURE}
    assert Path("list.txt").read_text() == "a.png\n"


def test_standard_input_is_not_overwritten():
    done = shell(f"{FAKE} caption - --output a.png < a.png")
    assert done.returncode == 2
    assert done.stderr == "sage: --output a.png: would overwrite standard input\n"
    assert Path("a.png").read_bytes() == PICTURE


@pytest.mark.parametrize("command", ["models", "doctor", "--help", "bench --help", "--version"])
def test_a_closed_pipe_is_no_failure(command):
    # The reader is gone before the first write: no race with the pipe's buffer.
    done = shell(f"{{ sleep 0.2; {SAGE} {command}; echo $? >&2; }} | true")
    assert done.stderr.splitlines()[-1] == "0", done.stderr
    assert "Traceback" not in done.stderr


def test_a_failure_on_a_closed_pipe_keeps_its_code():
    done = shell(f"{{ sleep 0.2; {SAGE} fly 2>&1; echo $? >&2; }} | true")
    assert done.stderr == "2\n"


def test_results_do_not_need_standard_error():
    command = f"{FAKE} caption a.png b.png --stats --output /dev/fd/3"
    done = shell(f"{{ sleep 0.2; {command} 2>&1; echo $? >&2; }} 3> out.txt | true")
    assert done.stderr == "0\n"
    assert Path("out.txt").read_text().count(SAID) == 2


@pytest.mark.parametrize(
    ("data", "says"), [(b"", "is empty"), (b"hi\n", "standard input: is text")]
)
def test_standard_input_is_checked_before_models_are_loaded(sage, loads, data, says):
    for arguments in (("caption", "-"), ("ask", "-", "a.png", "Same?")):
        result = sage(*arguments, stdin=data)
        assert result.exit_code == 3
        assert says in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert loads.calls == []


def test_standard_input_can_be_opened_after_the_check(sage, pipeline):
    assert sage("caption", "none.png", "-", stdin=PICTURE).exit_code == 0  # the fake opens all
    missing, (stdin,) = (call["files"] for call in pipeline.calls)
    assert missing == ["none.png"]
    assert stdin.read() == PICTURE


def test_standard_input_is_read_only_if_needed(sage, pipeline, loads):
    result = sage("caption", "-", "a.png", "--jsonl", stdin=b"hi\n")
    assert len(loads.calls) == 1, "a.png may be of use"
    assert [json.loads(line)["files"] for line in result.stdout.splitlines()][-1] == ["a.png"]


def test_ctrl_c_while_the_command_is_imported():
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *more):\n"
        "        if name == 'sage_cli.app': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from sage_cli.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert (done.returncode, done.stderr) == (130, "sage: interrupted\n")

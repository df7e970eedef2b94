"""Full and closed outputs, and the three signals that end a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sage_cli import signals
from tests.cli.fake import Script
from tests.cli.test_commands import TEXT
from tests.cli.test_nothing_lost import FAKE, SAGE, SAID, shell
from tests.cli.test_terminal import PROGRAM, environment

FULL = "No space left on device"
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize(
    "command",
    [
        f"{FAKE} caption a.png --quiet",
        f"{FAKE} caption a.png b.png --quiet",
        f"{FAKE} caption a.png --quiet --json",
        f"{FAKE} caption a.png --quiet --jsonl",
        f"{SAGE} --version",
        f"{SAGE} caption --help",
    ],
    ids=lambda command: command.partition("caption")[2] or command[-9:],
)
def test_a_full_standard_output_is_one_line_and_a_failure(command):
    done = shell(f"{command} > /dev/full")
    assert done.stderr == f"sage: standard output: {FULL}\n"
    assert done.returncode == 1


@pytest.mark.parametrize("redirected", ["2> /dev/full", "2>&-", "2> >(true)"])
@pytest.mark.parametrize(
    ("arguments", "code", "printed"),
    [
        ("caption a.png --stats", 0, f"{SAID}\n"),
        ("caption a.png --stats --save-view /dev/full", 2, ""),
        ("fly", 2, ""),
        ("caption", 2, ""),
    ],
)
def test_no_text_is_lost_for_a_message(redirected, arguments, code, printed):
    done = shell(f"{FAKE} {arguments} {redirected}")
    assert (done.returncode, done.stdout) == (code, printed)


def test_both_streams_full():
    assert shell(f"{FAKE} caption a.png > /dev/full 2> /dev/full").returncode == 1


class Run:
    """The program with scripted texts, writing to ``out.txt``."""

    def __init__(self, *before: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [*before, *PROGRAM, "caption", *["a.png", "b.png"] * 20, "--output", "out.txt"],
            stderr=subprocess.PIPE, text=True, env=environment(**{"FAKE_PAUSE": "0.1", **env}),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip

    def wait_for_texts(self) -> None:
        end = time.monotonic() + 30
        partial = Path("out.txt.partial")
        while time.monotonic() < end and not (partial.exists() and partial.stat().st_size):
            time.sleep(0.01)

    def ended(self) -> tuple[int, str]:
        """The exit code, and standard error without the note on the device."""
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


@pytest.mark.parametrize("further", [(), (signal.SIGTERM, signal.SIGINT)], ids=["once", "thrice"])
@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_leaves_whole_texts(number, further):
    run = Run()
    run.wait_for_texts()
    for sent in (number, *further):
        run.process.send_signal(sent)
    code, errors = run.ended()
    assert code - 128 in (number, *further)  # of several at once, either is the first
    assert [line for line in errors.splitlines() if not line.startswith("sage: ")] == []
    assert errors.endswith("sage: interrupted\n")
    texts = Path("out.txt.partial").read_text().split("\n==> ")
    assert [text.partition("<==\n")[2].strip() for text in texts] == [SAID] * len(texts)
    assert not Path("out.txt").exists()


def test_a_signal_that_was_ignored_stays_ignored():
    run = Run("nohup", FAKE_PAUSE="0.01")
    run.wait_for_texts()
    run.process.send_signal(signal.SIGHUP)
    assert run.ended()[0] == 0
    assert Path("out.txt").read_text().count(SAID) == 40


@pytest.mark.parametrize("number", SIGNALS)
def test_an_import_is_ended_at_once_and_leaves_nothing(number):
    Path("slow.py").write_text(
        "import sys, time\n"
        "import sage_core\n"
        "def load(*a, **k):\n    print('loading', flush=True)\n    import slower\n"
        "vars(sage_core)['load'] = load\n"
        "from sage_cli.__main__ import main\n"
        "sys.argv = ['sage', 'caption', 'a.png', '--output', 'out.txt', '--policy', 'chain']\n"
        "main()\n"
    )
    Path("slower.py").write_text("import time\ntry:\n    time.sleep(60)\nexcept: time.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "slow.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(), text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (128 + number, "sage: interrupted\n")
    assert not list(Path().glob("out.txt*"))


KILL = "import os, signal, time; os.kill(os.getpid(), signal.SIGTERM)\n"


@pytest.mark.parametrize(
    "code",
    [
        "import module\n",
        "class A:\n    def __del__(self):\n        import module as m; m.kill(); time.sleep(0.1)\n"
        "A()\n",
    ],
    ids=["import", "finalizer"],
)
def test_a_signal_is_raised_where_it_can_be(code):
    Path("module.py").write_text(f"{KILL}time.sleep(0.1)\ndone = True\ndef kill(): pass\n")
    script = (
        "import sys, time\nfrom sage_cli import signals\nsignals.install()\n"
        "with signals.raised_inside():\n    try:\n"
        + "".join(f"        {line}\n" for line in code.splitlines())
        + "        time.sleep(10)\n"
        "    except KeyboardInterrupt as error:\n"
        "        print(error.number, sys.modules['module'].done)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30,
        env=environment() | {"PYTHONPATH": f"{environment()['PYTHONPATH']}{os.pathsep}."},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("15 True\n", "")


def test_what_fails_because_of_a_signal_is_the_signal(sage, pipeline, monkeypatch):
    monkeypatch.setattr(signals, "interrupted", lambda: signal.SIGTERM)
    pipeline.enqueue(Script(), Script(error=RuntimeError("release unlocked lock")))
    result = sage("caption", "a.png", "b.png", "c.png", "--quiet")
    assert result.exit_code == 143
    assert result.stderr == "sage: interrupted\n"
    assert result.stdout == f"==> a.png <==\n{TEXT}\n"


def test_an_import_that_does_not_end_is_left():
    code = (
        "from sage_cli import signals\nsignals._PATIENCE = 0.3\nsignals.install()\n"
        "with signals.raised_inside():\n    import endless\n"
    )
    Path("endless.py").write_text(f"{KILL}while True:\n    time.sleep(0.01)\n")
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment()
    )
    assert (run.returncode, run.stderr) == (143, "sage: interrupted\n")

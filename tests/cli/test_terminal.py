"""The real program on real pipes and pseudo-terminals, with the scripted pipeline."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.cli.fake import scripted, word

ROOT = Path(__file__).parents[2]
ENDLESS = {"FAKE_STEPS": "5000", "FAKE_PAUSE": "0.03"}  # to be interrupted, however slow we are
PROGRAM = [sys.executable, "-m", "tests.cli.fake"]


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    return {**kept, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **more}


class Terminal:
    """A program on a pseudo-terminal; ``shown`` is all that it wrote there."""

    def __init__(self, *arguments: str, columns: int = 80, rows: int = 24, piped: str = "",
                 **env: str) -> None:  # fmt: skip
        self._master, slave = pty.openpty()
        self.resize(columns, rows)
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        if piped:
            streams[piped] = subprocess.PIPE
        self.process = subprocess.Popen(
            [*PROGRAM, *arguments], **streams, env=environment(**env), start_new_session=True
        )
        os.close(slave)
        self.shown = ""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read(self, until: str | None = None, seconds: float = 60) -> str:
        """All that is shown from now until ``until`` is, or the program has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not (until and re.search(until, self.shown)):
            if not select.select([self._master], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(self._master, 65536)
            except OSError:  # Linux says so when the last writer has gone
                data = b""
            if not data:
                break
            self.shown += data.decode("utf-8", "replace")
        if until:
            assert re.search(until, self.shown), self.shown
        return self.shown

    def finish(self) -> int:
        self.read()
        return self.process.wait(30)


def text(lengths: int) -> str:
    steps = scripted([(i * 3) % 5 for i in range(lengths)])
    return "".join(word(t) for step in steps for t in step.tokens).strip()


def after_the_view(shown: str) -> str:
    """What is left on the screen: everything outside of the alternate screen, codes dropped."""
    left = re.sub(r"\x1b\[\?1049h.*?\x1b\[\?1049l", "", shown, flags=re.DOTALL)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", left)


def test_without_the_view_a_terminal_gets_plain_text():
    terminal = Terminal("caption", "a.png", "--no-live", FAKE_STEPS="6")
    assert terminal.finish() == 0
    assert text(6) in terminal.shown
    assert "\x1b[?1049h" not in terminal.shown


def test_the_view_is_shown_and_the_text_left():
    terminal = Terminal("caption", "a.png", FAKE_STEPS="30", FAKE_PAUSE="0.03")
    assert terminal.finish() == 0
    assert "\x1b[?1049h" in terminal.shown
    assert "tokens/s" in terminal.shown
    left = after_the_view(terminal.shown)
    assert text(30) in left.replace("\r\n", "\n")
    assert "tokens/s" not in left


@pytest.mark.parametrize("columns", [30, 200])
def test_the_view_in_other_widths_and_through_a_resize(columns):
    terminal = Terminal("caption", "a.png", columns=columns, rows=20, **ENDLESS)
    terminal.read(until="step [0-9]+")
    terminal.resize(50, 10)
    seen = len(terminal.shown)
    terminal.read(until=rf"(?s)^.{{{seen}}}.*step [0-9]+")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.finish() == 130
    assert text(6)[:40] in after_the_view(terminal.shown)


def test_no_view_for_pipes_dumb_terminals_or_when_switched_off():
    for piped, arguments, env in (
        ("stdout", (), {}),
        ("", (), {"TERM": "dumb"}),
        ("", ("--quiet",), {}),
        ("stderr", ("--live",), {}),
    ):
        terminal = Terminal("caption", "a.png", *arguments, piped=piped, **env)
        out, err = terminal.process.communicate(timeout=60)
        terminal.read()
        written = terminal.shown + ((out or b"") + (err or b"")).decode()
        assert "\x1b[?1049h" not in written
        assert text(3) in written
        if piped == "stderr":
            assert b"--live" in err


def test_live_shows_the_view_with_piped_output():
    terminal = Terminal("caption", "a.png", "--live", piped="stdout", FAKE_PAUSE="0.1")
    out, _ = terminal.process.communicate(timeout=60)
    terminal.read()
    assert out.decode() == text(3) + "\n"
    assert "\x1b[?1049h" in terminal.shown


@pytest.mark.parametrize("arguments", [(), ("--no-live",)])
def test_ctrl_c_keeps_the_text_so_far_and_restores_the_screen(arguments):
    terminal = Terminal("caption", "a.png", *arguments, **ENDLESS)
    terminal.read(until="circle")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.finish() == 130
    assert terminal.shown.count("\x1b[?1049h") == terminal.shown.count("\x1b[?1049l")
    left = after_the_view(terminal.shown)
    assert "A large red circle" in left
    assert "interrupted" in left
    assert "Traceback" not in left


def test_suspension_restores_the_screen():
    terminal = Terminal("caption", "a.png", **ENDLESS)
    terminal.read(until="circle")
    terminal.process.send_signal(signal.SIGTSTP)
    # A session of its own has no shell to wait for it: the default action does not stop it, and
    # the view goes on; with a shell the two halves happen at stop and continuation.
    terminal.read(until=r"(?s)\[\?1049l.*\[\?1049h.*step [0-9]+")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.finish() == 130
    codes = re.findall(r"\x1b\[\?1049[hl]", terminal.shown)
    assert codes == ["\x1b[?1049h", "\x1b[?1049l"] * 2


def test_termination_restores_the_screen():
    terminal = Terminal("caption", "a.png", **ENDLESS)
    terminal.read(until="circle")
    terminal.process.terminate()
    assert terminal.finish() == 128 + signal.SIGTERM
    assert terminal.shown.count("\x1b[?1049l") == 1
    assert "\x1b[?25h" in terminal.shown


@pytest.mark.parametrize("form", [(), ("--jsonl",), ("--json",)])
def test_a_closed_pipe_ends_quietly(form):
    program = subprocess.Popen(
        [*PROGRAM, "caption", *["a.png"] * 40, "--quiet", *form],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(FAKE_PAUSE="0.01"),
    )  # fmt: skip
    assert program.stdout is not None
    program.stdout.read(10)
    program.stdout.close()
    assert program.stderr is not None
    assert program.stderr.read() == b""
    assert program.wait(60) == 0


@pytest.mark.parametrize(
    ("closed", "file", "code", "printed"),
    [
        ("2>&-", "a.png", 0, text(3) + "\n"),
        (">&-", "a.png", 0, ""),
        ("<&- 2>&-", "a.png", 0, text(3) + "\n"),
        ("<&-", "-", 3, ""),
    ],
)
def test_streams_closed_before_the_start(closed, file, code, printed):
    command = " ".join([*PROGRAM, "caption", file, "--quiet", closed])
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, env=environment()
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, printed)
    assert "Traceback" not in done.stderr


def test_characters_that_the_locale_lacks_are_replaced():
    for encoding in ("ascii", "latin-1"):
        done = subprocess.run(
            [*PROGRAM, "caption", "caf\u00e9\u2603.png", "b.png", "--stats"],
            capture_output=True, env=environment(PYTHONUTF8="0", PYTHONIOENCODING=encoding),
        )  # fmt: skip
        assert done.returncode == 0
        assert b"==> caf" in done.stdout
        assert b"Traceback" not in done.stderr

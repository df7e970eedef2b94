"""How the command line opens files: by a worker, each while the one before it is described."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sage_cli.jobs.inputs import Source
from sage_cli.jobs.media import MediaOpener
from sage_cli.options.shared import RunOptions
from sage_core.errors import InputError
from sage_core.media import MediaLimits, MediaWorker, Sampling

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    "arguments", [("ask", "a.png", "caf\udce9?"), ("caption", "a.png", "--prompt", "caf\udce9")]
)
def test_a_prompt_that_is_not_utf8_is_refused_before_loading(sage, loads, arguments) -> None:
    result = sage(*arguments)
    assert result.exit_code == 2
    assert "is not UTF-8 text" in result.stderr
    assert loads.calls == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("missing.png", "missing.png: no such file, and no question follows"),
        ("photos/day.MP4", "no such file"),
        ("./missing", "no such file"),
        ("/tmp/my cat.jpg", "no such file"),
        ("https://example.org/cat", "URLs are not read"),
        ("./.", "is a directory"),
    ],
)
def test_a_file_in_place_of_the_question(sage, loads, text: str, says: str) -> None:
    for arguments in ((text,), ("a.png", text)):
        result = sage("ask", *arguments)
        assert result.exit_code == 3
        assert says in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert loads.calls == []


@pytest.mark.parametrize(
    "text",
    ["cat", "Is it in cat.png", "and/or", "2.5", "Who made https://example.org?", "J.P. Morgan"],
)
def test_what_may_be_a_question_is_asked(sage, pipeline, text: str) -> None:
    assert sage("ask", text).exit_code == 0
    assert pipeline.calls[0]["prompt"] == text


@pytest.mark.parametrize(
    "name", ["https://example.org/a.png", "s3://bucket/a.mp4", "file:///a.gif"]
)
def test_a_url_in_place_of_a_file(sage, loads, name: str) -> None:
    result = sage("caption", name)
    assert result.exit_code == 3
    assert f"{name}: URLs are not read" in result.stderr
    assert loads.calls == []


class Recorder:
    """A worker that writes down what it is asked for, in order."""

    def __init__(self, limits: MediaLimits | None = None) -> None:
        self.limits = limits
        self.asked: list[tuple[str, str]] = []

    def supported(self) -> bool:
        return True

    def start(self) -> None:
        self.asked.append(("start", ""))

    def close(self) -> None:
        self.asked.append(("close", ""))

    def begin(self, path: str, sampling: Sampling) -> None:
        self.asked.append(("begin", path))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()

    def made(limits: MediaLimits) -> Recorder:
        recorder.limits = limits
        return recorder

    def open_media(source: Any, sampling: Sampling, isolate: Any) -> str:
        assert isolate is recorder
        name = source if isinstance(source, str) else "-"
        recorder.asked.append(("open", name))
        if name == "text.png":
            raise InputError("text.png: is text")
        return name

    monkeypatch.setattr("sage_core.media.MediaWorker", made)
    monkeypatch.setattr("sage_core.media.open_media", open_media)
    return recorder


class Family:
    sampling = Sampling(frames=8)


def test_each_file_is_decoded_while_the_one_before_it_is_described(recorder: Recorder) -> None:
    for name in ("text.png", "c.png"):
        Path(name).write_bytes(b"x")
    os.mkfifo("pipe")
    names = ("a.png", "text.png", "pipe", "-", "b.png", "c.png")
    with MediaOpener([Source(name) for name in names], RunOptions()) as opener:
        opener.begin(Family())  # type: ignore[arg-type]
        opener("a.png", Sampling())
        with pytest.raises(InputError):
            opener("text.png", Sampling())
        opener("pipe", Sampling())
        opener(object(), Sampling())
        opener("c.png", Sampling())  # b.png was left out
        opener("added.png", Sampling())
    wanted = "start; begin a.png; open a.png; begin text.png; open text.png; open pipe; open -"
    wanted += "; begin b.png; open c.png; open added.png; close"
    assert [" ".join(one).strip() for one in recorder.asked] == wanted.split("; ")


def test_the_limits_are_options(recorder: Recorder) -> None:
    options = RunOptions(media_memory=0.5, media_seconds=7)
    with MediaOpener([Source("a.png")], options):
        assert recorder.limits == MediaLimits(2**29, 7)
    assert RunOptions().media_limits() == MediaLimits()


def test_without_files_no_process_is_started(recorder: Recorder) -> None:
    with MediaOpener([], RunOptions()) as opener:
        opener.begin(Family())  # type: ignore[arg-type]
    assert recorder.asked == []


@pytest.mark.parametrize("quiet", [False, True])
def test_pages_that_are_not_read_are_said(
    quiet: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(tmp_path / "scan.tiff")
    pages = [Image.new("L", (8, 8), level) for level in (0, 100, 200)]
    pages[0].save(name, save_all=True, append_images=pages[1:])
    with MediaOpener([Source(name)], RunOptions(quiet=quiet)) as opener:
        assert opener(name, Sampling()).size == (8, 8)
    said = f"sage: {name}: page 1 of 3: the other pages are not read\n"
    assert capsys.readouterr().err == ("" if quiet else said)


def test_the_pipeline_gets_the_opener(sage, loads) -> None:
    assert sage("caption", "a.png").exit_code == 0
    assert isinstance(loads.calls[0]["opener"], MediaOpener)
    assert loads.calls[0]["on_family"] == loads.calls[0]["opener"].begin


@pytest.mark.skipif(not MediaWorker.supported(), reason="no other process here")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_waits_for_a_pipe_can_be_ended(number: int, code: int) -> None:
    os.mkfifo("pipe")
    command = [sys.executable, "-m", "sage_cli", "caption", "pipe", str(EXAMPLES / "shapes.png")]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as run:
        assert run.stderr is not None
        run.stderr.readline()  # the note on the device: the models are loaded
        time.sleep(1)
        run.send_signal(number)
        assert run.wait(15) == code
        assert "Traceback" not in run.stderr.read()

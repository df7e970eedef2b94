"""Decoding in another process: the same results, its limits, its end; and what is read once."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from sage_core.errors import InputError, OptionError
from sage_core.media import Clip, MediaLimits, MediaWorker, Picture, Sampling, open_media, streams
from sage_core.media import isolate as isolate_module
from tests.core.media_files import card, encoded, write_clip

pytestmark = pytest.mark.skipif(not MediaWorker.supported(), reason="no other process here")


@pytest.fixture(scope="module")
def worker() -> Iterator[MediaWorker]:
    with MediaWorker() as worker:
        yield worker


@pytest.fixture(scope="module")
def slow() -> bytes:
    """A picture whose decoding takes far longer than what a test does meanwhile."""
    return encoded(Image.new("RGB", (9000, 9000)), "PNG", compress_level=1)


def animation() -> bytes:
    frames = [card().rotate(90 * turn) for turn in range(5)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=120)


def pages() -> bytes:
    return encoded(card(), "TIFF", save_all=True, append_images=[card(), card()])


INPUTS = {
    "png": lambda: encoded(card(), "PNG"),
    "tall": lambda: encoded(card(20, 1100), "PNG"),
    "transparent": lambda: encoded(card().convert("RGBA"), "WEBP", lossless=True),
    "deep": lambda: encoded(
        Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)), "PNG"
    ),
    "pages": pages,
    "animation": animation,
}


def same(found: Picture | Clip, wanted: Picture | Clip) -> bool:
    assert type(found) is type(wanted)
    assert found.name == wanted.name
    if isinstance(found, Picture) and isinstance(wanted, Picture):
        alike = found.image.mode == wanted.image.mode and found.note == wanted.note
        return (
            alike and found.size == wanted.size and found.image.tobytes() == wanted.image.tobytes()
        )
    assert isinstance(found, Clip)
    assert isinstance(wanted, Clip)
    times = np.array_equal(found.timestamps, wanted.timestamps)
    alike = (found.fps, found.duration) == (wanted.fps, wanted.duration)
    return times and alike and np.array_equal(found.frames, wanted.frames)


@pytest.mark.parametrize("kind", INPUTS)
def test_it_gives_what_this_process_gives(kind: str, worker: MediaWorker, tmp_path: Path) -> None:
    data, sampling = INPUTS[kind](), Sampling(frames=3, max_pixels=2500)
    path = tmp_path / "file"
    path.write_bytes(data)
    for source in (path, str(path), data):
        here, there = open_media(source, sampling), open_media(source, sampling, isolate=worker)
        assert same(there, here)
    with path.open("rb") as file:
        assert same(
            open_media(file, sampling, "x", isolate=worker), open_media(data, sampling, "x")
        )


def test_a_video_and_its_frames_can_be_written_to(worker: MediaWorker, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    there = open_media(path, Sampling(frames=4), isolate=worker)
    assert same(there, open_media(path, Sampling(frames=4)))
    assert isinstance(there, Clip)
    there.frames[0] = 0
    assert same(open_media(path, isolate=worker), open_media(path))


def test_one_call_starts_a_process_for_itself() -> None:
    data = encoded(card(), "PNG")
    assert same(open_media(data, isolate=True), open_media(data))
    assert same(open_media(data, isolate=MediaLimits(seconds=30)), open_media(data))
    opened = open_media(data)
    assert open_media(opened, isolate=True) is opened
    assert isinstance(open_media(card(), isolate=True), Picture)


@pytest.mark.parametrize("data", [b"", b"only text\n", encoded(card(), "PNG")[:90], bytes(4000)])
def test_errors_are_those_of_this_process(data: bytes, worker: MediaWorker) -> None:
    with pytest.raises(InputError) as here:
        open_media(data, name="x.png")
    with pytest.raises(InputError) as there:
        open_media(data, name="x.png", isolate=worker)
    assert str(there.value) == str(here.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.png", "no such file"),
        (".", "is a directory"),
        ("/dev/zero", "is a device"),
        ("/dev/null", "is a device"),
        ("https://example.org/a.png", "URLs are not read"),
        ("s3://bucket/a.mp4", "URLs are not read"),
    ],
)
@pytest.mark.parametrize("isolated", [False, True])
def test_what_is_no_file(name: str, says: str, isolated: bool, worker: MediaWorker) -> None:
    with pytest.raises(InputError, match=says):
        open_media(name, isolate=worker if isolated else False)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"memory": 2**27}, r"big: decoding needs more than 0\.125 GiB: .*--media-memory"),
        ({"seconds": 0.1}, r"big: decoding took longer than 0\.1 s: .*--media-seconds"),
    ],
)
def test_limits(limits: dict[str, Any], says: str, slow: bytes) -> None:
    with MediaWorker(MediaLimits(**limits)) as worker:
        for _ in range(2):  # the process is a new one each time
            with pytest.raises(InputError, match=says):
                open_media(slow, name="big", isolate=worker)
        assert open_media(encoded(card(), "PNG"), isolate=worker).size == (64, 48)


def test_an_index_has_half_of_the_memory(tmp_path: Path) -> None:
    program = (
        "from sage_core.media.limits import index_memory, limit_memory\n"
        "limit_memory(2**28)\n"
        "def takes(count):\n"
        "    try: return len(bytearray(count)) == count\n"
        "    except MemoryError: return False\n"
        "with index_memory(): print(takes(2**26), takes(3 * 2**26))\n"
        "print(takes(3 * 2**26), takes(2**29))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True False\nTrue False\n", done.stderr


@pytest.mark.parametrize(
    "values", [{"memory": 0}, {"memory": 2.5}, {"seconds": 0}, {"seconds": 1e9}]
)
def test_invalid_limits(values: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        MediaLimits(**values)


def child() -> psutil.Process:
    (found,) = psutil.Process().children()
    return found


@pytest.mark.parametrize(
    ("number", "says"),
    [(signal.SIGSEGV, "decoder crashed .SIGSEGV."), (signal.SIGKILL, "lack of memory")],
)
def test_a_crash_refuses_one_file(
    number: int, says: str, slow: bytes, worker: MediaWorker, tmp_path: Path
) -> None:
    path, good = tmp_path / "slow.png", encoded(card(), "PNG")
    path.write_bytes(slow)
    worker.close()
    for _ in range(2):
        worker.begin(path, Sampling())
        child().send_signal(number)
        with pytest.raises(InputError, match=says):
            open_media(str(path), Sampling(), isolate=worker)
        assert same(open_media(good, isolate=worker), open_media(good))


def test_a_process_that_ended_while_idle_is_replaced(worker: MediaWorker) -> None:
    worker.close()
    worker.start()
    process = child()
    process.kill()
    while process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert open_media(encoded(card(), "PNG"), isolate=worker).size == (64, 48)


def test_what_was_begun_is_opened_or_dropped(worker: MediaWorker, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(encoded(card(40 + i, 40), "PNG"))
    worker.begin(paths[0], Sampling())
    assert open_media(paths[0], isolate=worker).size == (40, 40)
    worker.begin(paths[1], Sampling())
    assert open_media(paths[2], isolate=worker).size == (42, 40)
    worker.begin(paths[1], Sampling())
    assert open_media(paths[1], Sampling(max_pixels=400), isolate=worker).size == (20, 19)
    paths[0].write_bytes(b"text")
    worker.begin(paths[0], Sampling())
    with pytest.raises(InputError, match=r"0\.png: is text"):
        open_media(paths[0], isolate=worker)


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupt() -> Iterator[Any]:
    """A function that has `Interrupted` raised in the main thread after so many seconds."""

    def press(number: int, frame: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, press)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_waiting_for_the_process_can_be_interrupted(
    interrupt: Any, slow: bytes, worker: MediaWorker
) -> None:
    interrupt(0.1)
    with pytest.raises(Interrupted):
        open_media(slow, isolate=worker)
    assert open_media(encoded(card(), "PNG"), isolate=worker).size == (64, 48)


@pytest.mark.parametrize("isolated", [False, True])
def test_a_pipe_without_a_writer_can_be_interrupted(
    interrupt: Any, isolated: bool, worker: MediaWorker, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    interrupt(0.1)
    with pytest.raises(Interrupted):
        open_media(tmp_path / "pipe", isolate=worker if isolated else False)


def test_a_pipe_to_which_nothing_is_written_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"p: nothing was written to this pipe for 0\.1 s"):
        streams.read_pipe(tmp_path / "pipe", "p", idle=0.1)


@pytest.mark.parametrize("isolated", [False, True])
def test_a_pipe_is_read_to_its_end(isolated: bool, worker: MediaWorker, tmp_path: Path) -> None:
    data, path = encoded(card(300, 300), "BMP"), tmp_path / "pipe"
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for part in (data[:7], data[7:90_000], data[90_000:]):
                file.write(part)
                time.sleep(0.02)

    thread = threading.Thread(target=write)
    thread.start()
    assert open_media(path, isolate=worker if isolated else False).size == (300, 300)
    thread.join()


def test_streams_are_read_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LIMIT", 3 * 2**20)
    with pytest.raises(InputError, match="endless: is larger"):
        streams.keep(bytes, "endless")
    file = streams.keep(io.BytesIO(bytes(3 * 2**20)).read, "fits")
    assert (file.name, len(file.read())) == ("fits", 3 * 2**20)


REPLY = {"kind": "clip", "shape": [2, 4, 5, 3], "timestamps": [0, 1], "fps": 1, "duration": 2}


@pytest.mark.parametrize(
    "changed",
    [
        {"shape": [2, 4, 5, 4]},
        {"shape": [2, 4, 15, 1]},
        {"shape": [-2, -4, 5, 3]},
        {"shape": [2, 4, 5.0, 3]},
        {"shape": "2453"},
        {"timestamps": [0]},
        {"timestamps": [0, float("nan")]},
        {"timestamps": None},
        {"fps": []},
        {"kind": "picture"},
        {"kind": "picture", "size": [5, 5], "note": ""},
    ],
)
def test_a_reply_must_fit_the_pixels(changed: dict[str, Any]) -> None:
    pixels = io.BytesIO(bytes(120))
    with streams.scratch_file() as file:
        file.write(pixels.getvalue())
        file.flush()
        request = isolate_module._Request(None, Sampling(), "x", file)
        assert isolate_module._opened(REPLY, request).size == (5, 4)
        with pytest.raises((KeyError, TypeError, ValueError)):
            isolate_module._opened(REPLY | changed, request)


def test_nothing_stays_open(worker: MediaWorker, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4")

    def open_some() -> int:
        for _ in range(4):
            open_media(path, isolate=worker)
            open_media(encoded(card(), "PNG"), isolate=worker)
        gc.collect()
        return psutil.Process().num_fds() + child().num_fds()

    assert open_some() == open_some()


def test_the_process_ends_with_the_one_that_started_it(slow: bytes, tmp_path: Path) -> None:
    """Even where that is killed while the other decodes."""
    (tmp_path / "slow.png").write_bytes(slow)
    program = (
        "import sys, psutil\n"
        "from sage_core.media import MediaWorker, Sampling\n"
        "worker = MediaWorker()\n"
        "worker.begin(sys.argv[1], Sampling())\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "slow.png")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        process = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    psutil.wait_procs([process], timeout=20)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_the_process_imports_no_torch() -> None:
    program = (
        "import sys, sage_core.media.worker; print({'torch', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr

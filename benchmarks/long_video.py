"""A film of two hours in segments: ``python -m benchmarks.long_video --output FILE``.

Its frames are read without a model, in several containers and splits; then `sage caption` describes
it with few tokens. Memory should not grow with the length. ``--count`` is the length in seconds.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import perf_counter, sleep
from typing import Any

import av
import numpy as np
import psutil

from benchmarks import environment, harness
from sage_core.media import MediaWorker, Sampling
from sage_core.media.segments import Split, segments

MIB = 2**20
RATE, WIDTH, HEIGHT = 25, 160, 90
READ = (("mp4", "10"), ("mp4", "10:2"), ("mp4", "scenes"), ("ts", "10"), ("ts", "10:2"))
CAPTIONED = "30"
POINTS = 5


def make(path: Path, seconds: int) -> None:
    """Scenes of 20 to 60 seconds, each of one colour with a moving square; no sound."""
    chance = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "ultrafast", "g": "250", "bf": "2"}
        scene, left = np.empty(0), 0
        for number in range(seconds * RATE):
            if not left:
                scene = chance.integers(0, 255, 3, np.uint8)
                left = int(chance.integers(20, 60)) * RATE
            left -= 1
            pixels = np.broadcast_to(scene, (HEIGHT, WIDTH, 3)).copy()
            pixels[30:60, 2 * left % 140 :][:, :20] = 255 - scene
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def remux(path: Path, other: Path) -> None:
    with av.open(str(path)) as given, av.open(str(other), "w") as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)


@contextmanager
def peak_of_children() -> Iterator[list[int]]:
    """The largest resident size of one child process, in the list at the end."""
    found, over = [0], Event()

    def watch() -> None:
        while not over.wait(0.05):
            for child in psutil.Process().children():
                try:
                    found[0] = max(found[0], child.memory_info().rss)
                except psutil.Error:
                    continue

    thread = Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def read(path: Path, split: str) -> dict[str, Any]:
    """Decode eight frames of each segment."""
    reads = []
    with peak_of_children() as peak, MediaWorker() as reader, MediaWorker() as scanner:
        started = perf_counter()
        for start, end in segments(str(path), Split.parse(split), "film", reader, scanner=scanner):
            begun = perf_counter()
            reader.open(str(path), Sampling(frames=8, start=start, end=end), "film")
            reads.append(perf_counter() - begun)
        seconds = perf_counter() - started
    return {
        "container": path.suffix[1:],
        "split": split,
        "segments": len(reads),
        "seconds": seconds,
        "first_read": sum(reads[:10]) / len(reads[:10]),
        "last_read": sum(reads[-10:]) / len(reads[-10:]),
        "peak_resident": peak[0],
    }


def caption(path: Path, seconds: int, tokens: int) -> dict[str, Any]:
    """Resident memory of the command by the number of segments done."""
    output = path.with_name("out.txt")
    command = [sys.executable, "-m", "sage_cli", "caption", str(path), "--segment", CAPTIONED]
    command += ["--max-new-tokens", str(tokens), "--output", str(output)]
    total = max(1, round(seconds / float(CAPTIONED)))
    marks = [max(1, total * (i + 1) // POINTS) for i in range(POINTS)]
    readings: dict[int, list[int]] = {}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    partial = output.with_name("out.txt.partial")
    while process.poll() is None:
        done = partial.read_text().count("\n") if partial.exists() else 0
        if marks and done >= marks[0]:
            marks.pop(0)
            main = psutil.Process(process.pid)
            readings[done] = [one.memory_info().rss for one in (main, *main.children())]
        sleep(0.2)
    assert process.returncode == 0 and len(output.read_text().splitlines()) == total
    return {"split": CAPTIONED, "segments": total, "resident": readings}


def report(data: dict[str, Any]) -> str:
    rows = [
        [
            *(one["container"], one["split"], one["segments"], f"{one['seconds']:.0f}"),
            *(f"{1000 * one['first_read']:.0f}", f"{1000 * one['last_read']:.0f}"),
            f"{one['peak_resident'] / MIB:.0f}",
        ]
        for one in data["read"]
    ]
    heads = ["container", "segments of", "segments", "s", "first reads, ms", "last, ms", "MiB"]
    caption = data["caption"]
    done = [
        [count, f"{sizes[0] / MIB:.0f}", f"{max(sizes[1:], default=0) / MIB:.0f}"]
        for count, sizes in caption["resident"].items()
    ]
    notes = [
        f"{data['count']:,} s at {WIDTH}x{HEIGHT}, {RATE} frames/s, eight frames of each segment",
        "first and last reads: means of ten; MiB: largest resident memory of a decoding process",
        f"the second table: `sage caption --segment {caption['split']}` of the MP4 file, "
        f"{data['max_new_tokens']} tokens a segment; resident MiB of the command, and of the "
        "largest decoding process",
    ]
    captioned = harness.table(["segments done", "command", "decoding"], done)
    return harness.report(
        "A long video", data, notes, [*harness.table(heads, rows), "", *captioned]
    )


def main(argv: list[str] | None = None) -> int:
    parser = harness.options(__doc__, pair=False, count=7200, max_new_tokens=4)
    arguments = parser.parse_args(argv)
    data: dict[str, Any] = harness.described("benchmarks.long_video", arguments)
    with TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        make(film, arguments.count)
        remux(film, film.with_suffix(".ts"))
        data["read"] = [read(film.with_suffix(f".{kind}"), split) for kind, split in READ]
        data["caption"] = caption(film, arguments.count, arguments.max_new_tokens)
    environment.write(arguments.output, data, report(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())

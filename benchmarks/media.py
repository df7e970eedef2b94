"""Which files are read: every container, codec and defect, in both decoders, and hour-long clips.

python -m benchmarks.media --output benchmarks/results/media         a minute or two
python -m benchmarks.media --no-long                                 without the hour-long files
python -m benchmarks.media --docs docs/media.md                      the tables in the manual, too
"""

from __future__ import annotations

import argparse
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np

from benchmarks import environment
from benchmarks.child import Outcome, tried
from sage_core.media import Clip, Sampling, open_media
from sage_core.media import video_decord as with_decord
from sage_core.media import video_pyav as with_pyav
from sage_core.media.containers.probe import inspect
from tests.core.video_files import (
    KINDS,
    RATE,
    SOUNDS,
    Video,
    edited,
    index_of,
    is_upright,
    write_cover,
    write_sound_only,
    write_video,
)

READERS = {"decord": with_decord.read, "PyAV": with_pyav.read}
SAMPLINGS: tuple[dict[str, Any], ...] = ({}, {"frames": 99}, {"frames": 2}, {"fps": 3.0})
HOUR = 3600
BEGIN, END = "<!-- tables of benchmarks.media -->", "<!-- end of tables -->"


def read_by(reader: str, path: Path, video: Video) -> dict[str, Any]:
    """What one decoder made of a file: are the frames those of their times, and upright?"""
    facts = inspect(path)
    times = np.array(video.times or [i / RATE for i in range(video.frames)])
    right = upright = True
    frames = []
    for sampling in SAMPLINGS:
        for pixels in (None, video.size[0] * video.size[1] // 3):
            clip = READERS[reader](path, facts, Sampling(frame_pixels=pixels, **sampling), "x")
            for frame, seconds in zip(clip.frames, clip.timestamps, strict=True):
                index = int(np.argmin(np.abs(times - seconds)))
                right &= abs(times[index] - seconds) < 2e-3
                right &= abs(index_of(frame, video.frames) - index) < 0.6
                upright &= is_upright(frame)
            frames.append((clip.timestamps, clip.frames))
    return {"right": bool(right), "upright": bool(upright), "frames": frames}


def try_kind(video: Video, folder: Path) -> dict[str, Any]:
    """A row of the table of kinds."""
    path = folder / video.name
    row: dict[str, Any] = {
        "file": video.name,
        "codec": video.codec,
        "pixels": video.pixels,
        "note": video.note,
        "first": "decord" if with_decord.is_exact(inspect(path)) else "PyAV",
    }
    found = {name: tried(read_by, name, path, video, seconds=60.0) for name in READERS}
    for name, outcome in found.items():
        row[name] = _said(outcome)
    if all(outcome.how == "done" for outcome in found.values()):
        row["apart"] = _apart(*(outcome.says["frames"] for outcome in found.values()))
    return row


def _said(outcome: Outcome) -> str:
    if outcome.how == "done":
        faults = [name for name in ("right", "upright") if not outcome.says[name]]
        return "yes" if not faults else "not " + ", not ".join(faults)
    last = str(outcome.says).strip().splitlines()[-1]
    if "UnreadableError" not in last:
        return f"{outcome.how}: {last}"
    return "left to PyAV" if "needs PyAV" in last else "no"


def _apart(ours: list[Any], theirs: list[Any]) -> dict[str, float]:
    """Greatest mean difference of a sampling between decoders, at both sizes, and of times."""
    same, small, clock = 0.0, 0.0, 0.0
    for number, ((t, a), (u, b)) in enumerate(zip(ours, theirs, strict=True)):
        clock = max(clock, float(np.abs(t - u).max()))
        mean = float(np.abs(a.astype(int) - b).mean())
        same, small = (max(same, mean), small) if number % 2 == 0 else (same, max(small, mean))
    return {"at its own size": same, "made smaller": small, "seconds": clock}


def defects(folder: Path) -> dict[str, Path | bytes]:
    """Whole files that are no clips, and clips that are not whole."""
    plain = Video("plain.mp4", options={"g": "4", "bf": "2"}, frames=24)
    data = write_video(plain, folder / "plain.mp4").read_bytes()
    front = Video("front.mp4", frames=24, mux={"movflags": "faststart"})
    indexed = write_video(front, folder / "front.mp4").read_bytes()
    matroska = write_video(Video("cut.mkv", frames=24), folder / "cut.mkv").read_bytes()
    avi = write_video(Video("cut.avi", "mpeg4", frames=24), folder / "cut.avi").read_bytes()
    stream = Video("cut.ts", container="mpegts", frames=24, options={"g": "8", "bf": "0"})
    transport = write_video(stream, folder / "cut.ts").read_bytes()
    found: dict[str, Path | bytes] = {
        f"sound only, .{name.rpartition('.')[2]}": write_sound_only(folder / name)
        for name in SOUNDS
    }
    return found | {
        "sound with a cover, .mp4": write_cover(folder / "cover.mp4", with_video=False),
        "video with a cover, .mp4": write_cover(folder / "both.mp4", with_video=True),
        "mp4 cut, index at the end lost": data[: len(data) // 2],
        "mp4 cut, index in front": indexed[: len(indexed) // 2],
        "mp4 without its first half": data[len(data) // 2 :],
        "mkv cut": matroska[: len(matroska) // 2],
        "avi cut": avi[: len(avi) // 2],
        "transport stream cut at both ends": transport[188 * 9 : 188 * (len(transport) // 250)],
        "mp4 with an edit list that leaves frames out": edited(data, start=4 * 2048),
        "mp4 with frames zeroed": _zeroed(indexed),
        "the name of a picture (clip.png)": _named(folder / "clip.png", data),
        "text named clip.mp4": _named(folder / "text.mp4", b"This is no clip.\n" * 9),
        "header alone": data[:48],
        "nothing": b"",
    }


def _zeroed(data: bytes) -> bytes:
    middle = data.index(b"mdat") + 4 + (len(data) - data.index(b"mdat")) // 3
    return data[:middle] + bytes(len(data) - middle)


def _named(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def opened(source: Path | bytes) -> str:
    """What the whole of sage makes of a file."""
    clip = open_media(source, Sampling(frames=8), name="FILE")
    assert isinstance(clip, Clip)
    return f"read: {len(clip.frames)} frames over {clip.duration:.2f} s"


def write_hour(path: Path, rate: int, size: tuple[int, int], noisy: bool) -> Path:
    """An hour; noise makes it large, as a codec cannot shorten it."""
    dice = np.random.default_rng(0)
    cards = [dice.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8) for _ in range(32)]
    if not noisy:
        cards = [np.full_like(card, 8 * i) for i, card in enumerate(cards)]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"preset": "ultrafast", "g": "50", "crf": "14" if noisy else "30"}
        for index in range(HOUR * rate):
            frame = av.VideoFrame.from_ndarray(cards[index % 32], format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def copied(source: Path, path: Path) -> Path:
    """The same stream in another container."""
    with av.open(str(source)) as into, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(into.streams.video[0])
        for packet in into.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return path


def sixteen(path: Path) -> str:
    clip = open_media(path, Sampling(frames=16))
    assert isinstance(clip, Clip)
    return f"{len(clip.frames)} frames, {clip.timestamps[0]:.1f} to {clip.timestamps[-1]:.1f} s"


def try_hours(folder: Path) -> list[dict[str, Any]]:
    """Sixteen frames of an hour: seconds, memory above a tiny clip's, and bytes read."""
    tiny = write_video(Video("tiny.mp4"), folder / "tiny.mp4")
    floor = tried(sixteen, tiny, seconds=60.0)
    large = write_hour(folder / "hour-large.mp4", 2, (320, 180), noisy=True)
    files = [
        (large, "past decord's limit: PyAV by the index"),
        (copied(large, folder / "hour-large.mkv"), "passed over once"),
        (write_hour(folder / "hour-small.mp4", 10, (64, 48), noisy=False), "decord"),
    ]
    rows = []
    for path, note in files:
        found = tried(sixteen, path, seconds=300.0)
        rows.append(
            {
                "file": path.name,
                "note": note,
                "MB": path.stat().st_size / 1e6,
                "found": found.says,
                "seconds": found.seconds,
                "MB of memory more than for a tiny clip": (found.peak - floor.peak) / 1e6,
                "MB read": found.read / 1e6,
            }
        )
    return rows


def as_markdown(data: dict[str, Any]) -> str:
    lines = ["# Which files are read", "", *environment.as_markdown(data["environment"])]
    lines += [f"- decord {data['decord']}, PyAV {data['PyAV']}", ""]
    return "\n".join([*lines, *tables(data)])


def tables(data: dict[str, Any]) -> list[str]:
    """The three tables, as lines of Markdown."""
    lines = ["| file | codec | pixels | | tried first | decord | PyAV | apart | smaller |"]
    lines += ["|---|---|---|---|---|---|---|--:|--:|"]
    for row in data["kinds"]:
        apart = row.get("apart")
        ends = ("", "") if apart is None else (apart["at its own size"], apart["made smaller"])
        cells = [row[name] for name in ("file", "codec", "pixels", "note", "first")]
        cells += [row["decord"], row["PyAV"], *(e if e == "" else f"{e:.2f}" for e in ends)]
        lines += ["| " + " | ".join(cells) + " |"]
    lines += [
        "",
        "*yes*: all frames are the right ones at the right times, upright. *left to PyAV*: decord",
        "would get the wrong frames. *apart* and *smaller*: greatest mean difference between the",
        "decoders in levels of 255, frames at their own size and with a third of the pixels.",
        "",
        "| defect | what happens |",
        "|---|---|",
        *(f"| {name} | {says} |" for name, says in data["defects"].items()),
    ]
    if data["hours"]:
        lines += ["", "Sixteen frames of an hour:", ""]
        lines += ["| file | MB | read by | seconds | MB of memory more | MB read |"]
        lines += ["|---|--:|---|--:|--:|--:|"]
        for row in data["hours"]:
            memory = row["MB of memory more than for a tiny clip"]
            lines += [
                f"| {row['file']} | {row['MB']:.0f} | {row['note']} | {row['seconds']:.1f} "
                f"| {memory:.0f} | {row['MB read']:.1f} |"
            ]
    return lines


def write_docs(path: Path, data: dict[str, Any]) -> None:
    """Put the tables between their marks in a page of the manual."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text("\n".join([before + BEGIN, *tables(data), END]) + after, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-long", action="store_true", help="without the hour-long files")
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    parser.add_argument("--docs", help="a page whose tables are replaced")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for video in KINDS:
            write_video(video, folder / video.name)
        kinds = [try_kind(video, folder) for video in KINDS]
        broken = {name: tried(opened, source) for name, source in defects(folder).items()}
        hours = [] if given.no_long else try_hours(folder)
    data = {
        "environment": environment.describe("benchmarks.media"),
        "decord": decord.__version__,
        "PyAV": av.__version__,
        "kinds": kinds,
        "defects": {name: str(outcome.says) for name, outcome in broken.items()},
        "hours": hours,
    }
    environment.write(given.output, data, as_markdown(data))
    if given.docs:
        write_docs(Path(given.docs), data)


if __name__ == "__main__":
    main()

"""Which files are read: containers, codecs and defects, by both decoders, and hour-long videos.

python -m benchmarks.media --output benchmarks/results/media         half a minute
python -m benchmarks.media --no-long                                 without the hour-long files
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np

from benchmarks import environment
from benchmarks.child import tried
from sage_core.media import Clip, Sampling, open_media, video_decord, video_pyav
from sage_core.media.video_index import UnreadableError, read_index
from tests.core.media_files import decoded_by
from tests.core.video_files import (
    KINDS,
    SOUNDS,
    Video,
    edited,
    faults,
    write_cover,
    write_sound_only,
    write_video,
)

SAMPLINGS: tuple[dict[str, Any], ...] = ({}, {"frames": 99}, {"frames": 2}, {"fps": 3.0})
HOUR = 3600
NOTE = """
*frames*: those of the decoder, or of both, have the right content for their times and are upright.
*difference*: mean difference between the decoders in levels of 255, the largest of four samplings,
at full size and scaled to a third of the pixels."""


def read_kind(video: Video, path: Path) -> dict[str, Any]:
    """Which decoder reads a file, whether its frames are right, and how far PyAV's differ."""
    small = video.size[0] * video.size[1] // 3
    samplings = [
        Sampling(frame_pixels=pixels, **values) for pixels in (None, small) for values in SAMPLINGS
    ]
    ours = [decoded_by(video_pyav, path, sampling) for sampling in samplings]
    wrong = {fault for clip in ours for fault in faults(clip, video)}
    row = {"decoder": "PyAV", "frames": ", ".join(sorted(wrong)) or "right"}
    if not video_decord.is_exact(read_index(path, video.name)):
        return row
    try:
        theirs = [decoded_by(video_decord, path, sampling) for sampling in samplings]
    except UnreadableError:
        return row
    wrong |= {fault for clip in theirs for fault in faults(clip, video)}
    means = [
        float(np.abs(a.frames.astype(int) - b.frames).mean())
        for a, b in zip(ours, theirs, strict=True)
    ]
    return {
        "decoder": "decord",
        "frames": ", ".join(sorted(wrong)) or "right",
        "difference": max(means[: len(SAMPLINGS)]),
        "scaled": max(means[len(SAMPLINGS) :]),
    }


def defects(folder: Path) -> dict[str, Path | bytes]:
    """Complete files that are not videos, and videos that are not complete."""

    def written(name: str, **options: Any) -> bytes:
        return write_video(Video(name, frames=24, **options), folder / name).read_bytes()

    data = written("plain.mp4", options={"g": "4", "bf": "2"})
    front = written("front.mp4", mux={"movflags": "faststart"})
    matroska, avi = written("cut.mkv"), written("cut.avi", codec="mpeg4")
    stream = written("cut.ts", container="mpegts", options={"g": "8", "bf": "0"})
    zeroed = front.index(b"mdat") + 4 + (len(front) - front.index(b"mdat")) // 3
    for name, content in (("clip.png", data), ("text.mp4", b"This is not a video.\n" * 9)):
        (folder / name).write_bytes(content)
    audio = {f"audio only, {Path(name).suffix}": write_sound_only(folder / name) for name in SOUNDS}
    return audio | {
        "audio with a cover, .mp4": write_cover(folder / "cover.mp4", with_video=False),
        "video with a cover, .mp4": write_cover(folder / "both.mp4", with_video=True),
        "mp4 truncated, index at the end lost": data[: len(data) // 2],
        "mp4 truncated, index in front": front[: len(front) // 2],
        "mp4 without its first half": data[len(data) // 2 :],
        "mkv truncated": matroska[: len(matroska) // 2],
        "avi truncated": avi[: len(avi) // 2],
        "transport stream cut at both ends": stream[188 * 9 : 188 * (len(stream) // 250)],
        "mp4 with an edit list that leaves frames out": edited(data, start=4 * 2048),
        "mp4 with frames zeroed": front[:zeroed] + bytes(len(front) - zeroed),
        "video named clip.png": folder / "clip.png",
        "text named text.mp4": folder / "text.mp4",
        "header only": data[:48],
        "empty": b"",
    }


def opened(source: Path | bytes, frames: int = 8) -> str:
    """What sage makes of a file."""
    clip = open_media(source, Sampling(frames=frames), name="FILE")
    assert isinstance(clip, Clip)
    return f"read: {len(clip.frames)} frames over {clip.duration:.2f} s"


def write_hour(path: Path, rate: int, size: tuple[int, int], noisy: bool) -> Path:
    """An hour of video; noise makes it large."""
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


def remuxed(source: Path, path: Path) -> Path:
    """The same stream in another container."""
    with av.open(str(source)) as into, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(into.streams.video[0])
        for packet in into.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return path


def try_hours(folder: Path) -> list[dict[str, Any]]:
    """Sixteen frames of an hour: seconds, the process's peak memory, and bytes read."""
    large = write_hour(folder / "hour-large.mp4", 2, (320, 180), noisy=True)
    files = {
        large: "PyAV, by the sample table",
        remuxed(large, folder / "hour-large.mkv"): "PyAV, by all packets",
        write_hour(folder / "hour-small.mp4", 10, (64, 48), noisy=False): "decord",
    }
    rows = []
    for path, by in files.items():
        found = tried(opened, path, 16, seconds=300.0)
        size, memory = (round(n / 1e6) for n in (path.stat().st_size, found.peak))
        row = {"file": path.name, "decoder": by, "MB": size, "seconds": round(found.seconds, 1)}
        rows.append(row | {"MB of memory": memory, "MB read": round(found.read / 1e6, 1)})
    return rows


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: int = 0) -> list[str]:
    """A table in Markdown whose last ``numbers`` columns are aligned right."""
    lines = [f"| {' | '.join(head)} |", "|---" * (len(head) - numbers) + "|--:" * numbers + "|"]
    for row in rows:
        cells = (f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def as_markdown(data: dict[str, Any]) -> str:
    lines = ["# Which files are read", "", *environment.as_markdown(data["environment"])]
    lines += [f"- decord {data['decord']}, PyAV {data['PyAV']}", ""]
    names = ("file", "codec", "pixels", "note", "decoder", "frames", "difference", "scaled")
    kinds = ([row.get(name, "") for name in names] for row in data["kinds"])
    lines += [*table(names, kinds, 2), *NOTE.splitlines(), ""]
    lines += table(("defect", "result"), data["defects"].items())
    if data["hours"]:
        head = ("file", "decoder", "MB", "seconds", "MB of memory", "MB read")
        hours = (list(row.values()) for row in data["hours"])
        lines += ["", "Sixteen frames of an hour:", "", *table(head, hours, 4)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-long", action="store_true", help="without the hour-long files")
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    given = parser.parse_args()
    kinds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for video in KINDS:
            path = write_video(video, folder / video.name)
            row = {"file": video.name, "codec": video.codec, "pixels": video.pixels}
            found = tried(read_kind, video, path, seconds=60.0)
            says = found.says if found.how == "done" else {"decoder": found.how, "frames": "–"}
            kinds.append(row | {"note": video.note} | says)
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


if __name__ == "__main__":
    main()

"""Damaged pictures and clips, each in a child of its own: no traceback, no hang, no memory.

python -m benchmarks.media_fuzz --output benchmarks/results/media-fuzz      a few minutes
python -m benchmarks.media_fuzz --rounds 10 --seed 7                        more, and others

Fails when a file gives anything else than a picture, a clip or one of sage's own errors in one
line, takes more than ten seconds, or more than two gigabytes.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
import PIL
from PIL import Image

from benchmarks import environment
from benchmarks.child import Outcome, tried
from sage_core.media import Sampling, open_media
from tests.core.damage import DAMAGES, damaged
from tests.core.media_files import encoded
from tests.core.video_files import KINDS, write_sound_only, write_video

SECONDS = 10.0
MEMORY = 2 * 2**30
ADDRESSES = 6 * 2**30
"""The limit on address space: libraries and threads reserve much more than they use."""

PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
CLIPS = (
    *("h264.mp4", "h264.mov", "h264.mkv", "h264.avi", "h264.ts", "h264.flv", "h264-open.mp4"),
    *("h264-pieces.mp4", "hevc.mp4", "hevc-10bit.mp4", "vp8.webm", "vp9.webm", "av1.mp4"),
    *("mpeg4.avi", "mpeg2.mpg", "prores-alpha.mov", "wmv2.wmv", "uneven.mp4", "turned-90.mp4"),
)
ENDINGS = (".mp4", ".png", ".jpg", ".mkv", ".avi", ".gif", ".txt", ".webm", "")


def sources(folder: Path) -> dict[str, bytes]:
    """Whole files, small, of every kind."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    picture = Image.fromarray(noise)
    whole = {f"picture.{kind.lower()}": encoded(picture, kind) for kind in PICTURES}
    frames = [Image.fromarray(np.roll(noise, i, axis=1)) for i in range(4)]
    for kind in ("GIF", "WEBP", "PNG"):
        name = f"animated.{kind.lower()}"
        whole[name] = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    for video in KINDS:
        if video.name in CLIPS:
            whole[video.name] = write_video(video, folder / video.name).read_bytes()
    whole["sound.mp4"] = write_sound_only(folder / "sound.mp4").read_bytes()
    return whole


def opened(source: Path | bytes) -> str:
    """The kind of what a file turned out to be."""
    return type(open_media(source, Sampling(frames=8, frame_pixels=64 * 64), name="FILE")).__name__


def fault(outcome: Outcome) -> str | None:
    """What is wrong with how a child ended, None if nothing is."""
    if outcome.how not in ("done", "refused"):
        return f"{outcome.how}: {outcome.says}"
    if outcome.how == "refused" and ("\n" in outcome.says or len(outcome.says) > 250):
        return f"not one clear line: {outcome.says!r}"
    if outcome.peak > MEMORY:
        return f"{outcome.peak / 2**30:.1f} GB of memory"
    return None


def run(rounds: int, seed: int, folder: Path) -> dict[str, Any]:
    """Damage every source in every way ``rounds`` times and open what is left."""
    dice = random.Random(seed)
    ends: dict[str, Counter[str]] = {how: Counter() for how in DAMAGES}
    faults: list[dict[str, str]] = []
    slowest, largest = (0.0, ""), (0, "")
    for name, data in sources(folder).items():
        for how in DAMAGES:
            for turn in range(rounds):
                broken = damaged(data, how, dice)
                path = folder / f"input{dice.choice(ENDINGS)}"  # whatever it is named
                path.write_bytes(broken)
                source: Path | bytes = path if turn % 2 == 0 else broken
                outcome = tried(opened, source, seconds=SECONDS, memory=ADDRESSES)
                path.unlink()
                ends[how][outcome.says if outcome.how == "done" else outcome.how] += 1
                label = f"{name}, {how} {turn}"
                slowest = max(slowest, (outcome.seconds, label))
                largest = max(largest, (outcome.peak, label))
                if says := fault(outcome):
                    faults.append({"file": label, "fault": says})
                    (folder / f"fault-{len(faults)}").write_bytes(broken)
    return {
        "files": sum(sum(counter.values()) for counter in ends.values()),
        "seed": seed,
        "ends": {how: dict(counter) for how, counter in ends.items()},
        "slowest": {"seconds": slowest[0], "file": slowest[1]},
        "largest": {"MB": largest[0] / 1e6, "file": largest[1]},
        "faults": faults,
    }


def as_markdown(data: dict[str, Any]) -> str:
    columns = ("Picture", "Clip", "refused", "traceback", "killed", "hung")
    lines = ["# Damaged files", "", *environment.as_markdown(data["environment"])]
    lines += [
        f"- decord {data['decord']}, PyAV {data['PyAV']}, Pillow {data['Pillow']}",
        f"- {data['files']} files, seed {data['seed']}; each in a child process",
        f"- slowest: {data['slowest']['seconds']:.1f} s ({data['slowest']['file']}); "
        f"most memory: {data['largest']['MB']:.0f} MB ({data['largest']['file']})",
        f"- faults: {len(data['faults'])}",
        "",
        "| damage | " + " | ".join(columns) + " |",
        "|---|" + "--:|" * len(columns),
    ]
    for how, counter in data["ends"].items():
        cells = [str(counter.get(column, 0)) for column in columns]
        lines += [f"| {how} | " + " | ".join(cells) + " |"]
    lines += [f"- {f['file']}: {f['fault']}" for f in data["faults"]]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="damaged copies of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", help="a folder for the files that are at fault")
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(given.keep or name)
        folder.mkdir(parents=True, exist_ok=True)
        found = run(given.rounds, given.seed, folder)
    data = {
        "environment": environment.describe("benchmarks.media_fuzz"),
        "decord": decord.__version__,
        "PyAV": av.__version__,
        "Pillow": PIL.__version__,
    } | found
    environment.write(given.output, data, as_markdown(data))
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""Damaged images and videos, each opened in a child process: no traceback, no hang, little memory.

python -m benchmarks.media_fuzz --output benchmarks/results/media-fuzz      half a minute
python -m benchmarks.media_fuzz --rounds 10 --seed 7                        more and other files

Fails if a file gives anything but an image, a clip or a `SageError` of one line, takes more than
ten seconds, or more than two gigabytes.
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

IMAGES = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
VIDEOS = (
    *("h264.mp4", "h264.mov", "h264.mkv", "h264.avi", "h264.ts", "h264.flv", "h264-open.mp4"),
    *("h264-pieces.mp4", "hevc.mp4", "hevc-10bit.mp4", "vp8.webm", "vp9.webm", "av1.mp4"),
    *("mpeg4.avi", "mpeg2.mpg", "prores-alpha.mov", "wmv2.wmv", "uneven.mp4", "turned-90.mp4"),
)
SUFFIXES = (".mp4", ".png", ".jpg", ".mkv", ".avi", ".gif", ".txt", ".webm", "")
ENDS = ("Picture", "Clip", "refused", "traceback", "killed", "hung")


def sources(folder: Path) -> dict[str, bytes]:
    """Small complete files of every kind."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    first, *others = (Image.fromarray(np.roll(noise, i, axis=1)) for i in range(4))
    files = {f"image.{kind.lower()}": encoded(first, kind) for kind in IMAGES}
    for kind in ("GIF", "WEBP", "PNG"):
        animation = encoded(first, kind, save_all=True, append_images=others)
        files[f"animated.{kind.lower()}"] = animation
    for video in KINDS:
        if video.name in VIDEOS:
            files[video.name] = write_video(video, folder / video.name).read_bytes()
    return files | {"sound.mp4": write_sound_only(folder / "sound.mp4").read_bytes()}


def opened(source: Path | bytes) -> str:
    """`Picture` or `Clip`."""
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
    """Damage every file in every way ``rounds`` times and open the results."""
    dice = random.Random(seed)
    outcomes: dict[str, Outcome] = {}
    faults: dict[str, str] = {}
    files = sources(folder)
    cases = [(name, how, n) for name in files for how in DAMAGES for n in range(rounds)]
    for name, how, number in cases:
        broken = damaged(files[name], how, dice)
        path = folder / f"input{dice.choice(SUFFIXES)}"
        path.write_bytes(broken)
        source = path if number % 2 == 0 else broken
        label = f"{name}, {how} {number}"
        outcomes[label] = tried(opened, source, seconds=SECONDS, memory=ADDRESSES)
        path.unlink()
        if says := fault(outcomes[label]):
            faults[label] = says
            (folder / f"fault-{len(faults)}").write_bytes(broken)
    ends = {how: Counter[str]() for how in DAMAGES}
    for (_, how, _), outcome in zip(cases, outcomes.values(), strict=True):
        ends[how][outcome.says if outcome.how == "done" else outcome.how] += 1
    slowest = max(outcomes, key=lambda label: outcomes[label].seconds)
    largest = max(outcomes, key=lambda label: outcomes[label].peak)
    return {
        "files": len(cases),
        "seed": seed,
        "ends": ends,
        "slowest": {"seconds": outcomes[slowest].seconds, "file": slowest},
        "largest": {"MB": outcomes[largest].peak / 1e6, "file": largest},
        "faults": faults,
    }


def as_markdown(data: dict[str, Any]) -> str:
    slowest, largest = data["slowest"], data["largest"]
    lines = ["# Damaged files", "", *environment.as_markdown(data["environment"])]
    lines += [
        f"- decord {data['decord']}, PyAV {data['PyAV']}, Pillow {data['Pillow']}",
        f"- {data['files']} files, seed {data['seed']}; each in a child process",
        f"- slowest: {slowest['seconds']:.1f} s ({slowest['file']}); "
        f"most memory: {largest['MB']:.0f} MB ({largest['file']})",
        f"- faults: {len(data['faults'])}",
        *("", f"| damage | {' | '.join(ENDS)} |", "|---|" + "--:|" * len(ENDS)),
    ]
    for how, counter in data["ends"].items():
        lines.append(f"| {how} | {' | '.join(str(counter.get(end, 0)) for end in ENDS)} |")
    return "\n".join([*lines, *(f"- {file}: {says}" for file, says in data["faults"].items())])


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
    versions = {"decord": decord.__version__, "PyAV": av.__version__, "Pillow": PIL.__version__}
    data = {"environment": environment.describe("benchmarks.media_fuzz")} | versions | found
    environment.write(given.output, data, as_markdown(data))
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())

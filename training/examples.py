"""Example images and videos: `python -m training.examples --out examples --seed 7`."""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from training.world.render import draw_frame, draw_picture
from training.world.scenes import (
    Bar,
    Chart,
    Clip,
    Event,
    Look,
    Picture,
    Shapes,
    Thing,
    Word,
    Words,
    random_chart,
    random_clip,
    random_shapes,
    random_words,
)

PIXELS, FRAMES, RATE = 360, 36, 12
PAPER = Look(background=(248, 244, 232))
SKY = Look(background=(226, 238, 248))

SHAPES = Shapes(
    (
        Thing("circle", "red", "large", 0),
        Thing("star", "yellow", "small", 2),
        Thing("heart", "pink", "large", 4),
        Thing("square", "blue", "small", 6),
        Thing("triangle", "green", "large", 8),
    ),
    SKY,
)
CHART = Chart(
    (Bar("A", 7, "orange"), Bar("B", 16, "blue"), Bar("C", 11, "green"), Bar("D", 4, "purple"))
)
WORDS = Words(
    (Word("garden", "green", 0), Word("light", "orange", 1), Word("river", "blue", 2)), PAPER
)
TWO = Shapes((Thing("ring", "purple", "large", 3), Thing("cross", "red", "small", 5)), PAPER)
MOVING = Clip(
    (Thing("circle", "red", "large", 0), Thing("square", "blue", "small", 7)),
    (
        Event("move", 0, 0.2, 0.42, "right", 2),
        Event("move", 1, 0.6, 0.82, "left", 1),
    ),
    SKY,
)
LEAVING = Clip(
    (
        Thing("star", "yellow", "large", 1),
        Thing("heart", "pink", "large", 3),
        Thing("triangle", "green", "small", 8),
    ),
    (
        Event("appear", 2, 0.15, 0.35),
        Event("move", 0, 0.42, 0.62, "diagonally down and right", 1),
        Event("leave", 1, 0.72, 0.92, "left"),
    ),
    PAPER,
)
PICTURES: dict[str, Picture] = {"shapes": SHAPES, "chart": CHART, "words": WORDS, "two": TWO}
CLIPS = {"moving": MOVING, "leaving": LEAVING}


def write_clip(path: Path, clip: Clip, pixels: int = PIXELS, frames: int = FRAMES) -> None:
    """An H.264 file; the same scene gives the same frames."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(RATE))
        stream.width = stream.height = pixels
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "23"}
        for i in range(frames):
            image = draw_frame(clip, i / (frames - 1), pixels)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        file.mux(stream.encode())


def write_examples(out: Path, seed: int | None = None) -> list[Path]:
    """The committed examples, or with a seed random images and a video."""
    out.mkdir(parents=True, exist_ok=True)
    pictures, clips = dict(PICTURES), dict(CLIPS)
    if seed is not None:
        rng = np.random.default_rng(seed)
        pictures = {
            f"shapes-{seed}": random_shapes(rng),
            f"chart-{seed}": random_chart(rng),
            f"words-{seed}": random_words(rng),
        }
        clips = {f"clip-{seed}": random_clip(rng)}
    written = []
    for name, scene in pictures.items():
        written.append(out / f"{name}.png")
        draw_picture(scene, PIXELS).save(written[-1], optimize=True)
    for name, clip in clips.items():
        written.append(out / f"{name}.mp4")
        write_clip(written[-1], clip)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("examples"))
    parser.add_argument(
        "--seed", type=int, help="random scenes with this seed instead of the committed examples"
    )
    arguments = parser.parse_args()
    for path in write_examples(arguments.out, arguments.seed):
        print(path)


if __name__ == "__main__":
    main()

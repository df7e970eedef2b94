"""Frames as the families prepare them, without torchvision, beside transformers' video processors.

python -m benchmarks.video_processors --output benchmarks/results/video-processors

Needs torchvision, which nothing else does: https://pytorch.org says which build goes with torch.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks import environment
from sage_core.media import Clip, Rate, Sampling
from sage_core.media.frame_sampling import choose_frames
from sage_core.models.families import find_family

SIZES = ((640, 360), (360, 640), (97, 61), (1280, 720), (64, 64))
COUNTS = (1, 2, 5, 8)
CLOCKS = ((300, 30.0), (719, 23.976), (37, 8.0), (7, 25.0), (9000, 25.0), (40_000, 30.0))


@dataclass(frozen=True)
class Published:
    """A family with what its published checkpoints say of pictures and clips."""

    model_type: str
    image_processor: dict[str, Any]
    video: dict[str, Any]
    processor: str
    """transformers' video processor class."""
    vision: dict[str, Any]


_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_QWEN2 = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2} | _CLIP
_QWEN3 = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2} | _HALF
_ONEVISION = {"size": {"height": 384, "width": 384}} | _HALF

FAMILIES = (
    Published(
        "llava_onevision",
        {"image_processor_type": "LlavaOnevisionImageProcessor"}
        | _ONEVISION
        | {"image_grid_pinpoints": [[384, 384], [384, 768]]},
        _ONEVISION,
        "LlavaOnevisionVideoProcessor",
        {"image_size": 384, "patch_size": 14},
    ),
    Published(
        "qwen2_5_vl",
        {"image_processor_type": "Qwen2VLImageProcessor"}
        | _QWEN2
        | {"min_pixels": 3136, "max_pixels": 12845056},
        _QWEN2 | {"size": {"shortest_edge": 128 * 28**2, "longest_edge": 768 * 28**2}},
        "Qwen2VLVideoProcessor",
        {},
    ),
    Published(
        "qwen3_vl",
        {"image_processor_type": "Qwen2VLImageProcessor"}
        | _QWEN3
        | {"size": {"shortest_edge": 65536, "longest_edge": 16777216}},
        _QWEN3 | {"size": {"shortest_edge": 4096, "longest_edge": 25165824}},
        "Qwen3VLVideoProcessor",
        {},
    ),
)


class _Tokenizer:
    """The least that a family asks of a tokenizer before it sees a prompt."""

    chat_template = None

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"<{token}>"


def family_of(published: Published, folder: Path) -> Any:
    """The family over a folder with the published files, without any model."""
    for name, content in (
        ("preprocessor_config.json", published.image_processor),
        ("video_preprocessor_config.json", published.video),
    ):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    config = SimpleNamespace(
        model_type=published.model_type,
        image_token_id=1,
        video_token_id=2,
        vision_start_token_id=3,
        vision_end_token_id=4,
        vision_config=SimpleNamespace(**published.vision),
    )
    return find_family(config)(folder, config, _Tokenizer())


def video_processor(published: Published) -> Any:
    """transformers' own. Raises ImportError without torchvision."""
    name = published.model_type if published.model_type != "qwen2_5_vl" else "qwen2_vl"
    module = importlib.import_module(f"transformers.models.{name}.video_processing_{name}")
    return getattr(module, published.processor)(**published.video)


def clip_of(frames: int, size: tuple[int, int]) -> Clip:
    """A clip of smooth colours with some grain, so that resizing has something to do."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    dice = np.random.default_rng(0)
    shown = []
    for index in range(frames):
        waves = [np.sin(x / (9 + 5 * c) + index) + np.cos(y / (7 + 3 * c)) for c in range(3)]
        grain = dice.normal(0, 6, (height, width, 3))
        shown.append(np.clip(128 + 50 * np.stack(waves, axis=2) + grain, 0, 255).astype(np.uint8))
    return Clip(np.stack(shown), np.arange(frames) / 2, 2.0, frames / 2, "clip")


def prepared(family: Any, clip: Clip) -> tuple[np.ndarray, list[int]]:
    """What the family makes of a clip: all values, and the patch grid or the shape."""
    found = family._clips([clip])
    if not isinstance(found, dict):  # LLaVA-OneVision: (clips, frames, 3, side, side)
        return found.numpy(), list(found.shape)
    return found["pixel_values_videos"].numpy(), found["video_grid_thw"][0].tolist()


def expected(processor: Any, clip: Clip) -> tuple[np.ndarray, list[int]]:
    """What transformers makes of the same frames."""
    import torch

    frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)  # (frames, 3, height, width)
    found = processor(videos=[frames], do_sample_frames=False, return_tensors="pt")
    values = found["pixel_values_videos"].float().numpy()
    grid = found.get("video_grid_thw")
    return values, list(values.shape) if grid is None else grid[0].tolist()


def compare(published: Published, folder: Path) -> Iterator[dict[str, Any]]:
    """Differences of values, by size and number of frames."""
    family, processor = family_of(published, folder), video_processor(published)
    for size in SIZES:
        for frames in COUNTS:
            if frames == 1 and published.model_type == "qwen3_vl":
                continue  # transformers refuses a clip of one frame; here it is shown twice
            clip = clip_of(frames, size)
            (ours, shape), (theirs, their_shape) = prepared(family, clip), expected(processor, clip)
            row = {"family": published.model_type, "size": list(size), "frames": frames}
            same = shape == their_shape and ours.shape == theirs.shape
            apart = np.abs(ours - theirs) if same else np.full(1, np.inf)
            yield row | {
                "grid": shape,
                "same grid": same,
                "largest": float(apart.max()),
                "mean": float(apart.mean()),
            }


def compare_sampling(published: Published, rate: Rate) -> Iterator[dict[str, Any]]:
    """Frames chosen from clips with a steady clock."""
    from transformers.video_utils import VideoMetadata

    processor = video_processor(published)
    for total, fps in CLOCKS:
        metadata = VideoMetadata(total_num_frames=total, fps=fps, duration=total / fps)
        theirs = [int(i) for i in processor.sample_frames(metadata, fps=rate.fps)]
        chosen = choose_frames(np.arange(total) / fps, total / fps, Sampling(rate=rate), "x")
        ours = chosen.tolist()
        yield {
            "family": published.model_type,
            "frames of the clip": total,
            "fps": fps,
            "ours": len(ours),
            "theirs": len(theirs),
            "same frames": sum(a == b for a, b in zip(ours, theirs, strict=False)),
        }


def measure() -> dict[str, list[dict[str, Any]]]:
    """All rows. Raises ImportError without torchvision."""
    values: list[dict[str, Any]] = []
    sampling: list[dict[str, Any]] = []
    for published in FAMILIES:
        with tempfile.TemporaryDirectory() as name:
            values += compare(published, Path(name))
            rate = family_of(published, Path(name)).sampling.rate
        if rate is not None:
            sampling += compare_sampling(published, rate)
    return {"values": values, "sampling": sampling}


def as_markdown(data: dict[str, Any]) -> str:
    lines = ["# Beside transformers' video processors", ""]
    lines += environment.as_markdown(data["environment"])
    lines += [f"- torchvision {data['torchvision']}"]
    lines += ["", "| family | width x height | frames | grid | largest difference | mean |"]
    lines += ["|---|---|--:|---|--:|--:|"]
    for row in data["values"]:
        grid = "x".join(str(n) for n in row["grid"]) + ("" if row["same grid"] else " (not theirs)")
        lines += [
            f"| {row['family']} | {row['size'][0]}x{row['size'][1]} | {row['frames']} | {grid} "
            f"| {row['largest']:.4f} | {row['mean']:.6f} |"
        ]
    lines += [
        "",
        "Values are normalised: one level of 255 is 0.008 (LLaVA, Qwen3) to 0.015 (Qwen2).",
    ]
    lines += ["", "| family | frames of the clip | fps | sampled | theirs | the same |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for row in data["sampling"]:
        lines += ["| " + " | ".join(str(value) for value in row.values()) + " |"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    given = parser.parse_args()
    import torchvision

    data = {
        "environment": environment.describe("benchmarks.video_processors"),
        "torchvision": torchvision.__version__,
    } | measure()
    environment.write(given.output, data, as_markdown(data))


if __name__ == "__main__":
    main()

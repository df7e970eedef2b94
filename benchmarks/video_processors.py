"""Frames as the families prepare them, without torchvision, against transformers' video processors.

python -m benchmarks.video_processors --output benchmarks/results/video-processors

Needs torchvision: https://pytorch.org names the build for each version of torch.
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
from sage_core.media import Clip, FrameRate, Sampling
from sage_core.media.frame_sampling import choose_frames
from sage_core.models.families import find_family

SIZES = ((640, 360), (360, 640), (97, 61), (1280, 720), (64, 64))
COUNTS = (1, 2, 5, 8)
CLOCKS = ((300, 30.0), (719, 23.976), (37, 8.0), (7, 25.0), (9000, 25.0), (40_000, 30.0))
"""Frames and frames per second."""


@dataclass(frozen=True)
class Published:
    """A family with the preprocessor configurations of its published checkpoints."""

    model_type: str
    image_processor: dict[str, Any]
    video: dict[str, Any]
    processor: str
    """transformers' module and class of the video processor."""
    vision: dict[str, Any]


_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_QWEN2 = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2} | _CLIP
_QWEN3 = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2} | _HALF
_ONEVISION = {"size": {"height": 384, "width": 384}} | _HALF
_QWEN = {"image_processor_type": "Qwen2VLImageProcessor"}


def _edges(shortest: int, longest: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": shortest, "longest_edge": longest}}


FAMILIES = (
    Published(
        "llava_onevision",
        {"image_processor_type": "LlavaOnevisionImageProcessor"}
        | _ONEVISION
        | {"image_grid_pinpoints": [[384, 384], [384, 768]]},
        _ONEVISION,
        "llava_onevision.LlavaOnevisionVideoProcessor",
        {"image_size": 384, "patch_size": 14},
    ),
    Published(
        "qwen2_5_vl",
        _QWEN | _QWEN2 | {"min_pixels": 3136, "max_pixels": 12845056},
        _QWEN2 | _edges(128 * 28**2, 768 * 28**2),
        "qwen2_vl.Qwen2VLVideoProcessor",
        {},
    ),
    Published(
        "qwen3_vl",
        _QWEN | _QWEN3 | _edges(65536, 16777216),
        _QWEN3 | _edges(4096, 25165824),
        "qwen3_vl.Qwen3VLVideoProcessor",
        {},
    ),
)


class _Tokenizer:
    """What a family asks of a tokenizer before it prepares a prompt."""

    chat_template = None

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"<{token}>"


def family_of(published: Published, folder: Path) -> Any:
    """The family over a folder with the published files, without a model."""
    for name, content in (
        ("preprocessor_config.json", published.image_processor),
        ("video_preprocessor_config.json", published.video),
    ):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = SimpleNamespace(
        model_type=published.model_type,
        vision_config=SimpleNamespace(**published.vision),
        **{name: number for number, name in enumerate(ids, 1)},
    )
    return find_family(config)(folder, config, _Tokenizer())


def video_processor(published: Published) -> Any:
    """transformers' own. Raises ImportError without torchvision."""
    name, processor = published.processor.split(".")
    module = importlib.import_module(f"transformers.models.{name}.video_processing_{name}")
    return getattr(module, processor)(**published.video)


def clip_of(frames: int, size: tuple[int, int]) -> Clip:
    """Smooth colours with noise, so that resizing differences show."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    dice = np.random.default_rng(0)
    shown = []
    for index in range(frames):
        waves = [np.sin(x / (9 + 5 * c) + index) + np.cos(y / (7 + 3 * c)) for c in range(3)]
        grain = dice.normal(0, 6, (height, width, 3))
        shown.append(np.clip(128 + 50 * np.stack(waves, axis=2) + grain, 0, 255).astype(np.uint8))
    return Clip(np.stack(shown), np.arange(frames) / 2, 2.0, frames / 2, "clip")


def prepared(found: Any) -> tuple[np.ndarray, list[int]]:
    """All values, and the patch grid or the shape. LLaVA-OneVision has a tensor of frames only."""
    values = found["pixel_values_videos"] if hasattr(found, "keys") else found
    grid = found.get("video_grid_thw") if hasattr(found, "keys") else None
    return values.float().numpy(), list(values.shape if grid is None else grid[0].tolist())


def compare(published: Published, folder: Path) -> Iterator[dict[str, Any]]:
    """Differences of values, by size and number of frames."""
    import torch

    family, processor = family_of(published, folder), video_processor(published)
    for size in SIZES:
        for count in COUNTS:
            if count == 1 and published.model_type == "qwen3_vl":
                continue  # transformers refuses one frame; the family repeats it
            clip = clip_of(count, size)
            frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)  # (frames, 3, height, width)
            expected = processor(videos=[frames], do_sample_frames=False, return_tensors="pt")
            ours, grid = prepared(family._videos([clip]))
            theirs, their_grid = prepared(expected)
            same = grid == their_grid and ours.shape == theirs.shape
            apart = np.abs(ours - theirs) if same else np.full(1, np.inf)
            row = {"family": published.model_type, "size": list(size), "frames": count}
            row |= {"grid": grid, "same grid": same}
            yield row | {"largest": float(apart.max()), "mean": float(apart.mean())}


def compare_sampling(published: Published, rate: FrameRate) -> Iterator[dict[str, Any]]:
    """Frames sampled from videos with a constant frame rate."""
    from transformers.video_utils import VideoMetadata

    processor = video_processor(published)
    for total, fps in CLOCKS:
        metadata = VideoMetadata(total_num_frames=total, fps=fps, duration=total / fps)
        theirs = [int(i) for i in processor.sample_frames(metadata, fps=rate.fps)]
        chosen = choose_frames(np.arange(total) / fps, total / fps, Sampling(rate=rate), "x")
        row = {"family": published.model_type, "frames of the clip": total, "fps": fps}
        same = sum(a == b for a, b in zip(chosen.tolist(), theirs, strict=False))
        yield row | {"ours": len(chosen), "theirs": len(theirs), "same frames": same}


def as_markdown(data: dict[str, Any]) -> str:
    lines = ["# Frames against transformers' video processors", ""]
    lines += [*environment.as_markdown(data["environment"]), f"- torchvision {data['torchvision']}"]
    lines += ["", "| family | width x height | frames | grid | largest difference | mean |"]
    lines += ["|---|---|--:|---|--:|--:|"]
    for row in data["values"]:
        size, grid = ("x".join(map(str, row[name])) for name in ("size", "grid"))
        cells = [row["family"], size, row["frames"], grid + " (differs)" * (not row["same grid"])]
        cells += [f"{row['largest']:.4f}", f"{row['mean']:.6f}"]
        lines += [f"| {' | '.join(map(str, cells))} |"]
    lines += [
        "",
        "Values are normalised: one level of 255 is 0.008 (LLaVA, Qwen3) to 0.015 (Qwen2).",
    ]
    lines += ["", "| family | frames of the clip | fps | sampled | theirs | the same |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    lines += [f"| {' | '.join(map(str, row.values()))} |" for row in data["sampling"]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    given = parser.parse_args()
    import torchvision

    data: dict[str, Any] = {"environment": environment.describe("benchmarks.video_processors")}
    data |= {"torchvision": torchvision.__version__, "values": [], "sampling": []}
    for published in FAMILIES:
        with tempfile.TemporaryDirectory() as name:
            data["values"] += compare(published, Path(name))
            rate = family_of(published, Path(name)).sampling.rate
        if rate is not None:
            data["sampling"] += compare_sampling(published, rate)
    environment.write(given.output, data, as_markdown(data))


if __name__ == "__main__":
    main()

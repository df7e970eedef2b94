"""The bundled items of `sage bench`: the committed files are what the renderer draws."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sage_core.bench.data import BUNDLED, BUNDLED_ITEMS, bundled_items, calibration_items
from sage_core.bench.items import Item
from sage_core.media import Clip, Picture, Sampling, open_media
from sage_core.pair_loading import load_pair
from training.bench_items import (
    CALIBRATION_ITEMS,
    CALIBRATION_SEED,
    animation,
    held_out,
    write,
)


def pixels(media: Picture | Clip) -> np.ndarray:
    return media.frames if isinstance(media, Clip) else np.asarray(media.image)


def both() -> Iterator[tuple[Item, Item]]:
    """Every committed item with the rendered one."""
    yield from zip(bundled_items(BUNDLED_ITEMS), held_out(BUNDLED_ITEMS), strict=True)
    others = held_out(CALIBRATION_ITEMS, CALIBRATION_SEED)
    yield from zip(calibration_items(), others, strict=True)


def test_committed_items_are_those_of_the_renderer() -> None:
    sampling = load_pair(draft=None).family.sampling  # of the bundled pair, which they measure
    for committed, drawn in both():
        for name in ("id", "category", "prompts", "history"):
            assert getattr(committed, name) == getattr(drawn, name)
        opened, rendered = (item.source.open(sampling) for item in (committed, drawn))
        assert [type(one) for one in opened] == [type(one) for one in rendered]
        for one, other in zip(opened, rendered, strict=True):
            same = np.array_equal(pixels(one), pixels(other))
            assert same, f"{committed.id}: run python -m training.bench_items"
            if isinstance(one, Clip) and isinstance(other, Clip):
                assert np.array_equal(one.timestamps, other.timestamps)
                assert (one.fps, one.duration) == (other.fps, other.duration)


def test_the_script_writes_the_committed_files(tmp_path: Path) -> None:
    write(tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(written) == {path.name for path in BUNDLED.iterdir()}
    for name in ("items.jsonl", "calibration.jsonl"):
        assert written[name] == (BUNDLED / name).read_bytes()


def test_an_animation_keeps_equal_frames() -> None:
    frames = [Image.new("RGB", (20, 12), color) for color in ("red", "red", "blue", "blue")]
    video = open_media(animation(frames, 250), Sampling(frames=8))
    assert isinstance(video, Clip) and video.fps == 4 and video.duration == 1
    assert np.array_equal(video.frames, np.stack([np.asarray(frame) for frame in frames]))

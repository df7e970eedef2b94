"""The items of `sage bench`: `python -m training.bench_items` draws them and writes the files.

The files are lossless WebP, videos as animations, so that they hold exactly the pixels that the
renderer draws. They are written for two JSONL lists in the format of `sage_core.bench.data`.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sage_core.bench.data import BUNDLED, BUNDLED_ITEMS
from sage_core.bench.items import Item
from sage_core.media import Clip, Opener, Picture, Sampling, open_media
from training.world.heldout import CATEGORIES, HeldOutItem, item, items
from training.world.inputs import FPS, media_of

CALIBRATION_SEED = 1_000_003
"""Of the items that settings are chosen on; no comparison measures them."""
CALIBRATION_ITEMS = 4


@dataclass(frozen=True)
class Rendered:
    """The media of a held-out scene, drawn when they are opened: a source of a bench `Item`."""

    category: str
    index: int
    seed: int

    def open(self, sampling: Sampling, opener: Opener = open_media) -> tuple[Picture | Clip, ...]:
        return media_of(self.item())

    def item(self) -> HeldOutItem:
        """The whole item with its prompt and the expected answer, drawn anew."""
        return item(self.index, self.seed, self.category)


def held_out(count: int, seed: int = 0) -> Iterator[Item]:
    """``count`` rendered items, the categories in turn. The bundled ones have seed 0."""
    for number, held in enumerate(items(count, seed)):
        source = Rendered(held.category, number // len(CATEGORIES), seed)
        yield Item(held.id, source, (held.prompt,), held.category, _history(held))


def write(folder: Path) -> None:
    """Write both lists and their files."""
    folder.mkdir(parents=True, exist_ok=True)
    lists = {"items": (BUNDLED_ITEMS, 0), "calibration": (CALIBRATION_ITEMS, CALIBRATION_SEED)}
    for name, (count, seed) in lists.items():
        lines = [json.dumps(_line(held, folder)) + "\n" for held in items(count, seed)]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def _line(held: HeldOutItem, folder: Path) -> dict[str, Any]:
    """Write the files of an item; what the list says of it."""
    images = [image.convert("RGB") for image in held.images]
    several = len(images) > 1 and not held.video
    names = [f"{held.id}{f'.{i}' if several else ''}.webp" for i in range(len(images))]
    if held.video:
        names = names[:1]
        (folder / names[0]).write_bytes(animation(images, round(1000 / FPS)))
    else:
        for name, image in zip(names, images, strict=True):
            (folder / name).write_bytes(_lossless(image))
    line: dict[str, Any] = {"id": held.id, "category": held.category}
    line |= {"files": names} if several else {"file": names[0]}
    line["prompt"] = held.prompt
    if held.history:
        line["history"] = _history(held)
    return line


def _history(held: HeldOutItem) -> tuple[tuple[str, str], ...]:
    return tuple((turn.user, turn.answer) for turn in held.history)


def _lossless(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "WEBP", lossless=True, quality=100, method=6)
    return data.getvalue()


def animation(frames: Sequence[Image.Image], milliseconds: int) -> bytes:
    """An animated WebP of lossless frames, each shown for so long.

    The container is written here (WebP Container Specification, "Extended File Format"), because
    encoders of animations join equal frames, and the number of frames decides which are sampled.
    """
    width, height = frames[0].size
    size = _24(width - 1) + _24(height - 1)
    shown = _24(0) + _24(0) + size + _24(milliseconds) + b"\x02"  # drawn over, not blended
    chunks = [_chunk(b"VP8X", b"\x02\0\0\0" + size), _chunk(b"ANIM", bytes(6))]
    for frame in frames:
        stream = _lossless(frame)[12:]  # without the RIFF header
        chunks.append(_chunk(b"ANMF", shown + stream))
    return _chunk(b"RIFF", b"WEBP" + b"".join(chunks))


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + len(data).to_bytes(4, "little") + data + b"\0" * (len(data) % 2)


def _24(number: int) -> bytes:
    return number.to_bytes(3, "little")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=BUNDLED)
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()

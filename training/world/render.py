"""Draws scenes with Pillow, and gives the classes of every patch."""

from __future__ import annotations

import io
import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.world.scenes import (
    CLIP_FRAMES,
    COLORS,
    DIRECTIONS,
    LABELS,
    LEXICON,
    MAX_VALUE,
    SHAPES,
    SIZES,
    Chart,
    Clip,
    Look,
    Pair,
    Picture,
    Scene,
    Shapes,
    Thing,
    Words,
)

PIXELS = 96
PATCHES = 6
RADIUS = {"small": 0.25, "large": 0.42}  # in cells
INK = {
    "red": (214, 40, 40),
    "orange": (245, 135, 20),
    "yellow": (242, 207, 20),
    "green": (40, 155, 70),
    "blue": (40, 90, 210),
    "purple": (130, 60, 170),
    "pink": (245, 130, 185),
    "black": (25, 25, 25),
}
TARGETS = {
    "kind": 4,  # nothing, a shape, a bar, a word
    "shape": len(SHAPES),
    "color": len(COLORS),
    "size": len(SIZES),
    "value": MAX_VALUE,
    "label": len(LABELS),
    "word": len(LEXICON),
    "place": PATCHES * PATCHES,
}
Placed = tuple[Thing, float, float]  # a thing and its centre, in cells


@lru_cache(maxsize=64)
def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(pixels)


def _star() -> list[tuple[float, float]]:
    angles = [math.pi * (i / 5 - 0.5) for i in range(10)]
    radii = [1.1 if i % 2 == 0 else 0.46 for i in range(10)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _heart() -> list[tuple[float, float]]:
    points = []
    for i in range(40):
        t = 2 * math.pi * i / 40
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3 * 1.02, -y / 16 - 0.06))
    return points


OUTLINES = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0.0, -0.95), (0.98, 0.8), (-0.98, 0.8)],
    "diamond": [(0.0, -1.08), (0.78, 0.0), (0.0, 1.08), (-0.78, 0.0)],
    "star": _star(),
    "heart": _heart(),
}


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, x: float, y: float, cell: float) -> None:
    """Draw a thing at (x, y) in cells of ``cell`` pixels."""
    ink, r = INK[thing.color], RADIUS[thing.size] * thing.scale * cell
    cx, cy = x * cell, y * cell
    box = (cx - r, cy - r, cx + r, cy + r)
    if thing.shape == "circle":
        draw.ellipse(box, fill=ink)
    elif thing.shape == "ring":
        draw.ellipse(box, outline=ink, width=max(1, round(0.36 * r)))
    elif thing.shape == "cross":
        w = 0.3 * r
        draw.rectangle((cx - w, cy - r, cx + w, cy + r), fill=ink)
        draw.rectangle((cx - r, cy - w, cx + r, cy + w), fill=ink)
    else:
        draw.polygon([(cx + r * px, cy + r * py) for px, py in OUTLINES[thing.shape]], fill=ink)


def placed(scene: Shapes) -> list[Placed]:
    return [(t, t.cell % 3 + 0.5 + t.dx, t.cell // 3 + 0.5 + t.dy) for t in scene.things]


def placed_at(clip: Clip, time: float) -> list[Placed]:
    """The visible things of a video and their centres at a time from 0 to 1."""
    result = []
    hidden = clip.hidden_at_start()
    for who, thing in enumerate(clip.things):
        x, y = thing.cell % 3 + 0.5 + thing.dx, thing.cell // 3 + 0.5 + thing.dy
        shown = who not in hidden
        for event in clip.events:
            if event.who != who or time < event.start:
                continue
            done = min(1.0, (time - event.start) / (event.end - event.start))
            if event.kind == "appear":
                shown = shown or done >= 0.5
                continue
            dx, dy = DIRECTIONS[event.direction]
            steps = float(event.steps)
            if event.kind == "leave":
                steps = 3.6 - x if dx > 0 else x + 0.6 if dx < 0 else 3.6 - y if dy > 0 else y + 0.6
            x, y = x + done * steps * dx, y + done * steps * dy
            shown = shown and not (event.kind == "leave" and done >= 1.0)
        if shown:
            result.append((thing, x, y))
    return result


def _finish(image: Image.Image, look: Look, frame: int = 0) -> Image.Image:
    """Add noise and JPEG compression as ``look`` says."""
    if look.noise:
        rng = np.random.default_rng(look.seed + frame)
        small = (image.width // 2, image.height // 2)
        noise = rng.normal(0, look.noise, (small[1], small[0], 1)).repeat(2, 0).repeat(2, 1)
        pixels = np.asarray(image, np.float32)[: noise.shape[0], : noise.shape[1]] + noise
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if look.jpeg:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=look.jpeg)
        image = Image.open(buffer).convert("RGB")
    return image


def _draw_things(things: list[Placed], look: Look, pixels: int) -> Image.Image:
    image = Image.new("RGB", (pixels, pixels), look.background)
    draw = ImageDraw.Draw(image)
    for thing, x, y in things:
        _draw_thing(draw, thing, x, y, pixels / 3)
    return image


def _draw_chart(chart: Chart, pixels: int) -> Image.Image:
    image = Image.new("RGB", (pixels, pixels), chart.look.background)
    draw = ImageDraw.Draw(image)
    slot, base = 0.94 * pixels / len(chart.bars), 0.85 * pixels
    font = _font(round(0.125 * pixels))
    for i, bar in enumerate(chart.bars):
        x = 0.03 * pixels + slot * (i + 0.5)
        top = base - 0.034 * pixels * bar.value
        half = chart.width * slot / 2
        draw.rectangle((x - half, top, x + half, base), fill=INK[bar.color])
        dark = (20, 20, 20)
        draw.text((x, top - 0.012 * pixels), str(bar.value), fill=dark, font=font, anchor="mb")
        draw.text((x, base + 0.02 * pixels), bar.label, fill=dark, font=font, anchor="mt")
    line = max(1, pixels // 96)
    draw.line((0.02 * pixels, base, 0.98 * pixels, base), fill=(40, 40, 40), width=line)
    return image


def _draw_words(scene: Words, pixels: int) -> Image.Image:
    image = Image.new("RGB", (pixels, pixels), scene.look.background)
    draw = ImageDraw.Draw(image)
    for word in scene.words:
        font = _font(round(0.225 * word.scale * pixels))
        x, y = (0.5 + word.dx) * pixels, (word.row / 3 + 1 / 6 + word.dy) * pixels
        left, _, right, _ = draw.textbbox((0, 0), word.text, font=font, anchor="mm")
        half = (right - left) / 2 + 0.01 * pixels
        x = min(max(x, half), pixels - half)
        draw.text((x, y), word.text, fill=INK[word.color], font=font, anchor="mm")
    return image


def draw_picture(scene: Picture, pixels: int | None = None) -> Image.Image:
    """The image at its own size, or at ``pixels``, drawn twice as large and reduced."""
    size = pixels * 2 if pixels else scene.look.pixels
    if isinstance(scene, Shapes):
        image = _draw_things(placed(scene), scene.look, size)
    elif isinstance(scene, Chart):
        image = _draw_chart(scene, size)
    else:
        image = _draw_words(scene, size)
    if pixels:
        return image.resize((pixels, pixels), Image.Resampling.LANCZOS)
    return _finish(image, scene.look)


def draw_frame(clip: Clip, time: float, pixels: int | None = None, frame: int = 0) -> Image.Image:
    """One frame of a video."""
    image = _draw_things(
        placed_at(clip, time), clip.look, pixels * 2 if pixels else clip.look.pixels
    )
    if pixels:
        return image.resize((pixels, pixels), Image.Resampling.LANCZOS)
    return _finish(image, clip.look, frame)


def draw_frames(clip: Clip, frames: int = CLIP_FRAMES) -> list[Image.Image]:
    """Frames at even times from the first to the last."""
    return [draw_frame(clip, i / (frames - 1), frame=i) for i in range(frames)]


def draw(scene: Scene, frames: int = CLIP_FRAMES) -> list[Image.Image]:
    """All images or frames of a scene."""
    if isinstance(scene, Clip):
        return draw_frames(scene, frames)
    if isinstance(scene, Pair):
        return [draw_picture(scene.first), draw_picture(scene.second)]
    return [draw_picture(scene)]


def pixel_values(image: Image.Image) -> np.ndarray:
    """(3, 96, 96) float32 in [-1, 1], as the saved image processor makes it."""
    small = image.convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
    return np.asarray(small, np.float32).transpose(2, 0, 1) / 127.5 - 1.0


def patch_targets(scene: Picture | list[Placed]) -> np.ndarray:
    """(36, len(TARGETS)) class of each patch for each target; -1 for none."""
    names = list(TARGETS)
    out = np.full((PATCHES, PATCHES, len(names)), -1, np.int64)
    out[:, :, 0] = 0
    out[:, :, names.index("place")] = np.arange(PATCHES**2).reshape(PATCHES, PATCHES)

    def put(rows: slice, columns: slice, **values: int) -> None:
        for name, value in values.items():
            out[rows, columns, names.index(name)] = value

    if isinstance(scene, (Shapes, list)):
        for thing, x, y in placed(scene) if isinstance(scene, Shapes) else scene:
            if 0 <= x < 3 and 0 <= y < 3:
                rows, columns = slice(int(y) * 2, int(y) * 2 + 2), slice(int(x) * 2, int(x) * 2 + 2)
                put(rows, columns, kind=1, shape=SHAPES.index(thing.shape))
                put(rows, columns, color=COLORS.index(thing.color), size=SIZES.index(thing.size))
    elif isinstance(scene, Chart):
        for column in range(PATCHES):
            index = int(((column + 0.5) / PATCHES - 0.03) / 0.94 * len(scene.bars))
            bar, columns = scene.bars[index], slice(column, column + 1)
            put(slice(None), columns, kind=2, color=COLORS.index(bar.color))
            put(slice(None), columns, value=bar.value - 1, label=LABELS.index(bar.label))
    else:
        for word in scene.words:
            rows = slice(word.row * 2, word.row * 2 + 2)
            color = COLORS.index(word.color)
            put(rows, slice(1, 5), kind=3, word=LEXICON.index(word.text), color=color)
    return out.reshape(PATCHES**2, len(names))

"""Dense lessons for the language model: what each visual token means among the others.

The tower learns what stands in a patch; what moved, from where, and what came first only shows
when frames are compared. A linear head on the middle layer of the language model must say so at
every visual token, which teaches in minutes what a few words of a caption teach in hours. The head
is not part of the saved model.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from training.world.render import PATCHES, placed_at
from training.world.scenes import COLORS, DIRECTIONS, SHAPES, Clip, Event, Pair, Scene, Shapes

CELLS = ((PATCHES + 1) // 2) ** 2
LESSONS = {
    "frame": 10,  # which frame or picture
    "cell": CELLS,
    "color": len(COLORS),  # of the thing here, or of the one that left from here
    "shape": len(SHAPES),
    "did": 3 + len(DIRECTIONS),  # nothing, appeared, left, moved in a direction: its last event
    "origin": CELLS,  # where its last move began
    "when": 4,  # which event of the clip that was; 0 for none
    "events": 4,  # how many events there were so far
    "count": 7,  # how many things of this picture come up to here, row by row
}
_NAMES = list(LESSONS)
_WAYS = list(DIRECTIONS)


def _begun(event: Event, time: float) -> bool:
    """Whether an event can be seen to have happened."""
    done = (time - event.start) / (event.end - event.start)
    return done >= (1.0 if event.kind == "leave" else 0.5)


def _frame_lessons(clip: Clip, time: float, frame: int) -> np.ndarray:
    """(CELLS, lessons) for one frame."""
    out = np.full((CELLS, len(_NAMES)), -1, np.int64)

    def put(at: int, /, **values: int) -> None:
        for name, value in values.items():
            out[at, _NAMES.index(name)] = value

    seen = [e for e in clip.events if _begun(e, time)]
    for cell in range(CELLS):
        put(cell, frame=frame, cell=cell, did=0, when=0, events=len(seen))
    now = {id(t): int(x) + 3 * int(y) for t, x, y in placed_at(clip, time) if _inside(x, y)}
    for who, thing in enumerate(clip.things):
        at, origin, did, when = thing.cell, thing.cell, 0, 0
        for number, event in enumerate(seen, 1):
            if event.who != who:
                continue
            origin, when = at, number
            if event.kind == "move":
                dx, dy = DIRECTIONS[event.direction]
                at += event.steps * (dx + 3 * dy)
                did = 3 + _WAYS.index(event.direction)
            else:
                did = 1 if event.kind == "appear" else 2
        cell = at if did == 2 else now.get(id(thing))
        if cell is not None:
            color, shape = COLORS.index(thing.color), SHAPES.index(thing.shape)
            put(cell, color=color, shape=shape, did=did, origin=origin, when=when)
    return out


def _inside(x: float, y: float) -> bool:
    return 0 <= x < 3 and 0 <= y < 3


def _picture_lessons(scene: Shapes | None, picture: int, first: int = 0) -> np.ndarray:
    """(PATCHES**2, lessons) for one still picture; `first` things were counted before."""
    out = np.full((PATCHES**2, len(_NAMES)), -1, np.int64)
    out[:, _NAMES.index("frame")] = picture
    starts = [2 * PATCHES * (t.cell // 3) + 2 * (t.cell % 3) for t in scene.things] if scene else []
    for patch in range(PATCHES**2):
        row, column = divmod(patch, PATCHES)
        out[patch, _NAMES.index("cell")] = row // 2 * 3 + column // 2
        if scene is not None:
            seen = sum(start <= patch for start in starts)
            out[patch, _NAMES.index("count")] = max(first, seen)
    return out


def lessons(scene: Scene, frames: int) -> np.ndarray:
    """(visual tokens, lessons), in the order of the tokens; -1 where there is nothing to say."""
    gap = np.full((1, len(_NAMES)), -1, np.int64)
    if isinstance(scene, Clip):
        shown = [_frame_lessons(scene, i / (frames - 1), min(i, 9)) for i in range(frames)]
        return np.concatenate([*shown, gap])
    if isinstance(scene, Pair):
        sides = [_picture_lessons(side, i) for i, side in enumerate((scene.first, scene.second))]
        return np.concatenate([sides[0], gap, sides[1], gap])
    shapes = scene if isinstance(scene, Shapes) else None
    whole = _picture_lessons(shapes, 0)
    tile = _picture_lessons(shapes, 1, len(scene.things) if isinstance(scene, Shapes) else 0)
    rows = tile.reshape(PATCHES, PATCHES, -1)
    ends = np.full((PATCHES, 1, len(_NAMES)), -1, np.int64)
    return np.concatenate([whole, np.concatenate([rows, ends], 1).reshape(-1, len(_NAMES))])


class Witness(nn.Module):
    """Linear classifiers on hidden states, one per lesson."""

    def __init__(
        self, hidden: int, taught: Mapping[str, int] = LESSONS, watched: str = "did"
    ) -> None:
        """taught: each lesson's number of classes; watched: the one whose right share is told."""
        super().__init__()
        self._taught, self._watched = taught, watched
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, sum(taught.values()))

    def loss(self, hidden: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Sum of the mean cross-entropies, and the share of the watched that is right.

        `hidden` is (n, hidden) at the visual tokens, `wanted` (n, lessons).
        """
        total, right = hidden.new_zeros((), dtype=torch.float32), 0.0
        parts = self.out(self.norm(hidden)).float().split(list(self._taught.values()), dim=-1)
        for i, (name, logits) in enumerate(zip(self._taught, parts, strict=True)):
            target = wanted[:, i]
            known = target >= 0
            if not known.any():
                continue
            weight = None
            if name in ("did", "when"):  # most cells hold nothing that ever did anything
                weight = torch.ones(logits.shape[-1], device=logits.device)
                weight[0] = 0.2
            total = total + F.cross_entropy(logits[known], target[known], weight=weight)
            if name == self._watched and (target > 0).any():
                active = target > 0
                right = float((logits[active].argmax(-1) == target[active]).float().mean())
        return total, right

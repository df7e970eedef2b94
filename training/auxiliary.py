"""Auxiliary losses on hidden states: labels for every visual token, and a linear head.

The vision tower learns what is in a patch. What moved, from where and in which order only shows
when frames are compared, which captions supervise by a few words. A linear head on the middle layer
of the language model predicts it at every visual token. It is not part of the saved model.
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
TOKEN_LABELS = {
    "frame": 10,  # frame or image number
    "cell": CELLS,
    "color": len(COLORS),  # of the thing here, or of the one that left from here
    "shape": len(SHAPES),
    "did": 3 + len(DIRECTIONS),  # its last event: none, appeared, left, moved in a direction
    "origin": CELLS,  # where its last move began
    "when": 4,  # the number of that event in the video; 0: none
    "events": 4,  # events so far
    "count": 7,  # things of this image up to here, row by row
}
_NAMES = list(TOKEN_LABELS)
_WAYS = list(DIRECTIONS)


def _begun(event: Event, time: float) -> bool:
    """Whether an event is visible at this time."""
    done = (time - event.start) / (event.end - event.start)
    return done >= (1.0 if event.kind == "leave" else 0.5)


def _frame_labels(clip: Clip, time: float, frame: int) -> np.ndarray:
    """(CELLS, labels) of one frame."""
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


def _image_labels(scene: Shapes | None, picture: int, first: int = 0) -> np.ndarray:
    """(PATCHES**2, labels) of one image; ``first`` things were counted before."""
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


def token_labels(scene: Scene, frames: int) -> np.ndarray:
    """(visual tokens, labels), in the order of the tokens; -1 where there is no label."""
    gap = np.full((1, len(_NAMES)), -1, np.int64)
    if isinstance(scene, Clip):
        shown = [_frame_labels(scene, i / (frames - 1), min(i, 9)) for i in range(frames)]
        return np.concatenate([*shown, gap])
    if isinstance(scene, Pair):
        sides = [_image_labels(side, i) for i, side in enumerate((scene.first, scene.second))]
        return np.concatenate([sides[0], gap, sides[1], gap])
    shapes = scene if isinstance(scene, Shapes) else None
    whole = _image_labels(shapes, 0)
    tile = _image_labels(shapes, 1, len(scene.things) if isinstance(scene, Shapes) else 0)
    rows = tile.reshape(PATCHES, PATCHES, -1)
    ends = np.full((PATCHES, 1, len(_NAMES)), -1, np.int64)
    return np.concatenate([whole, np.concatenate([rows, ends], 1).reshape(-1, len(_NAMES))])


class AuxiliaryHead(nn.Module):
    """Linear classifiers on hidden states, one for each label.

    Args:
        hidden: size of the hidden states.
        classes: the number of classes of each label.
        reported: the label whose accuracy is reported.
    """

    def __init__(
        self, hidden: int, classes: Mapping[str, int] = TOKEN_LABELS, reported: str = "did"
    ) -> None:
        super().__init__()
        self._classes, self._reported = classes, reported
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, sum(classes.values()))

    def loss(self, hidden: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The sum of the mean cross-entropies, and the accuracy of the reported label.

        ``hidden`` is (n, hidden) at the visual tokens, ``wanted`` (n, labels), -1 for none.
        """
        total, right = hidden.new_zeros((), dtype=torch.float32), 0.0
        parts = self.out(self.norm(hidden)).float().split(list(self._classes.values()), dim=-1)
        for i, (name, logits) in enumerate(zip(self._classes, parts, strict=True)):
            target = wanted[:, i]
            known = target >= 0
            if not known.any():
                continue
            weight = None
            if name in ("did", "when"):  # most cells have no event
                weight = torch.ones(logits.shape[-1], device=logits.device)
                weight[0] = 0.2
            total = total + F.cross_entropy(logits[known], target[known], weight=weight)
            if name == self._reported and (target > 0).any():
                active = target > 0
                right = float((logits[active].argmax(-1) == target[active]).float().mean())
        return total, right

"""Labels of visual tokens, compared with scenes written by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.auxiliary import CELLS, TOKEN_LABELS, AuxiliaryHead, token_labels
from training.tokens import visual_count
from training.world.scenes import Clip, Event, Pair, Shapes, Thing, random_chart, random_clip

NAMES = list(TOKEN_LABELS)
RED = Thing("circle", "red", "small", 0)
BLUE = Thing("star", "blue", "large", 8)
MOVES = Event("move", 0, 0.1, 0.3, "right", 2)
LEAVES = Event("leave", 1, 0.6, 0.8, "down")
CLIP = Clip((RED, BLUE), (MOVES, LEAVES))


def labels_at(clip: Clip, frame: int, cell: int) -> dict[str, int]:
    rows = token_labels(clip, 8)
    return dict(zip(NAMES, rows[frame * CELLS + cell].tolist(), strict=True))


@pytest.mark.parametrize(
    ("frame", "cell", "wanted"),
    [
        (0, 0, {"did": 0, "origin": 0, "when": 0, "events": 0, "color": 0, "shape": 0}),
        (0, 4, {"did": 0, "origin": -1, "when": 0, "events": 0, "color": -1}),
        (4, 2, {"did": 3 + 1, "origin": 0, "when": 1, "events": 1, "color": 0}),
        (4, 0, {"did": 0, "color": -1, "events": 1}),
        (7, 8, {"did": 2, "origin": 8, "when": 2, "events": 2, "color": 4, "shape": 3}),
    ],
)
def test_labels_of_events(frame: int, cell: int, wanted: dict[str, int]) -> None:
    found = labels_at(CLIP, frame, cell)
    assert found["frame"] == frame and found["cell"] == cell
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize("seed", range(4))
def test_every_visual_token_has_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pair = Pair(Shapes((RED,)), Shapes((RED, BLUE)))
    for scene in (random_clip(rng), random_chart(rng), pair, Shapes((RED, BLUE))):
        rows = token_labels(scene, 8)
        assert rows.shape == (visual_count(scene), len(NAMES))
        assert (rows >= -1).all() and (rows < np.array(list(TOKEN_LABELS.values()))).all()


def test_things_are_counted_row_by_row() -> None:
    rows = token_labels(Pair(Shapes((RED,)), Shapes((RED, BLUE))), 8)
    counts = rows[:, NAMES.index("count")]
    assert counts[0] == 1 and counts[35] == 1 and counts[36] == -1
    assert counts[37] == 1 and counts[37 + 27] == 1 and counts[37 + 28] == 2


def test_the_head_learns_its_labels() -> None:
    torch.manual_seed(0)
    head, hidden = AuxiliaryHead(16), torch.randn(73, 16)
    wanted = torch.from_numpy(token_labels(CLIP, 8))
    optimizer = torch.optim.Adam(head.parameters(), 0.1)
    first = float(head.loss(hidden, wanted)[0].detach())
    for _ in range(30):
        optimizer.zero_grad()
        loss, _ = head.loss(hidden, wanted)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < first / 2

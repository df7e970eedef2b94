"""Videos of many frames in which one thing after another appears and leaves.

Each thing is visible in a few frames only, and the text names them all in order, so that every
sentence depends on particular frames. No two things share a colour.
"""

from __future__ import annotations

import numpy as np

from training.world.captions import event_texts
from training.world.phrases import upper
from training.world.scenes import COLORS, Clip, Event, Thing, choose, random_look, random_thing

LEAST, MOST = 3, len(COLORS)
"""Things in a clip."""
STAY = 2
"""The least number of frames in which a thing is visible."""


def parade(rng: np.random.Generator, frames: int) -> Clip:
    """A video of ``frames`` frames with about one thing for every four to eight of them."""
    count = int(rng.integers(max(LEAST, frames // 8), max(LEAST, min(MOST, frames // 4)) + 1))
    colors = [str(color) for color in rng.permutation(COLORS)[:count]]
    spare = rng.multinomial(frames - STAY * count, rng.dirichlet(np.full(count, 2.0)))
    things: list[Thing] = []
    events: list[Event] = []
    at = 0
    for who, color in enumerate(colors):
        drawn = random_thing(rng, int(rng.integers(9)))
        things.append(
            Thing(drawn.shape, color, drawn.size, drawn.cell, drawn.dx, drawn.dy, drawn.scale)
        )
        events.append(_between("appear", who, at, frames))
        at += STAY + int(spare[who])
        if who + 1 < count:
            gap = int(spare[who] > 1 and rng.random() < 0.3)
            events.append(_between("leave", who, at - gap, frames))
    return Clip(tuple(things), tuple(events), random_look(rng, clip=True))


def _between(kind: str, who: int, frame: int, frames: int) -> Event:
    """An event between a frame and the one before it."""
    last = frames - 1
    return Event(kind, who, (frame - 0.6) / last, (frame - 0.4) / last, "left")


def parade_caption(rng: np.random.Generator, clip: Clip) -> str:
    """A sentence for each thing, in order of appearance."""
    texts = [
        text
        for event, text in zip(clip.events, event_texts(rng, clip), strict=True)
        if event.kind == "appear"
    ]
    out = []
    for number, text in enumerate(texts):
        if number == 0:
            starter = choose(rng, ("first", "to begin with"))
        elif number == len(texts) - 1 and rng.random() < 0.5:
            starter = choose(rng, ("finally", "in the end"))
        else:
            starter = choose(rng, ("then", "after that", "next"))
        out.append(upper(f"{starter}, {text}."))
    return " ".join(out)

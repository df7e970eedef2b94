"""Questions and answers about scenes, short or explained."""

from __future__ import annotations

from collections import Counter

import numpy as np

from training.world.answers import Answered, many, number, one_of
from training.world.phrases import EXPLAIN, NUMBERS, article, listing, place, plain, upper
from training.world.questions_media import ask_chart, ask_clip, ask_pair, ask_words
from training.world.scenes import COLORS, SHAPES, Chart, Clip, Scene, Shapes, Thing, Words, choose

Rng = np.random.Generator


def _count(rng: Rng, things: list[Thing]) -> Answered:
    style = rng.random()
    noun = "shape"
    if style < 0.25:
        chosen, asked = things, "shapes"
    elif style < 0.55:
        color = choose(rng, things).color if rng.random() < 0.75 else choose(rng, COLORS)
        chosen = [t for t in things if t.color == color]
        noun, asked = f"{color} shape", f"{color} shapes"
    elif style < 0.8:
        noun = choose(rng, things).shape if rng.random() < 0.75 else choose(rng, SHAPES)
        chosen, asked = [t for t in things if t.shape == noun], many(noun)
    else:
        size = choose(rng, ("small", "large"))
        chosen = [t for t in things if t.size == size]
        noun, asked = f"{size} shape", f"{size} shapes"
    question = one_of(
        rng, f"How many {asked} are there?", f"How many {asked} can you see?", f"Count the {asked}."
    )
    answer = number(rng, len(chosen), noun)
    if rng.random() < 0.7:
        question += " " + choose(rng, EXPLAIN)
        named = (
            listing([f"the {plain(t)} in the {place(rng, t.cell)}" for t in chosen])
            if chosen
            else ""
        )
        head = f"I see {named}" if chosen else f"I see no {noun}"
        verb = "is" if len(chosen) == 1 else "are"
        word = NUMBERS[len(chosen)] if chosen else "zero"
        answer = f"{head}, so there {verb} {word}."
    return Answered(question, answer, "counting", NUMBERS[len(chosen)])


def _unique(things: list[Thing], attribute: str) -> list[Thing]:
    counts = Counter(getattr(t, attribute) for t in things)
    return [t for t in things if counts[getattr(t, attribute)] == 1]


def _attribute(rng: Rng, things: list[Thing]) -> Answered:
    style = rng.random()
    thing = choose(rng, things)
    where = f"in the {place(rng, thing.cell)}"
    if style < 0.3:
        question = one_of(
            rng, f"What color is the shape {where}?", f"Which color has the object {where}?"
        )
        answer = choose(rng, (upper(thing.color) + ".", f"The shape {where} is {thing.color}."))
        return Answered(question, answer, "color", thing.color)
    if style < 0.6:
        question = one_of(rng, f"What shape is {where}?", f"Which shape is {where}?")
        answer = choose(rng, (f"{upper(article(thing.shape))}.", f"It is {article(plain(thing))}."))
        return Answered(question, answer, "shape", thing.shape)
    single = _unique(things, "shape")
    if style < 0.75 and single:
        thing = choose(rng, single)
        question = one_of(
            rng, f"What color is the {thing.shape}?", f"Which color does the {thing.shape} have?"
        )
        answer = choose(rng, (upper(thing.color) + ".", f"The {thing.shape} is {thing.color}."))
        return Answered(question, answer, "color", thing.color)
    single = [t for t in things if [plain(o) for o in things].count(plain(t)) == 1] or []
    if not single:
        return _count(rng, things)
    thing = choose(rng, single)
    question = one_of(
        rng, f"Where is the {plain(thing)}?", f"Where can you find the {plain(thing)}?"
    )
    where = place(rng, thing.cell)
    answer = choose(rng, (f"In the {where}.", f"The {plain(thing)} is in the {where}."))
    return Answered(question, answer, "place", str(thing.cell))


def _yes_no(rng: Rng, things: list[Thing]) -> Answered:
    thing = choose(rng, things)
    present = rng.random() < 0.5
    shape, color = thing.shape, thing.color
    if not present:
        shape, color = choose(rng, ((choose(rng, SHAPES), color), (shape, choose(rng, COLORS))))
    found = [t for t in things if (t.shape, t.color) == (shape, color)]
    name = f"{color} {shape}"
    question = one_of(rng, f"Is there {article(name)}?", f"Can you see {article(name)}?")
    key = "yes" if found else "no"
    answer = upper(key) + "."
    style = rng.random()
    if style < 0.5:
        question += " " + choose(rng, EXPLAIN)
        alike = [f"the {plain(t)} in the {place(rng, t.cell)}" for t in things if t.color == color]
        answer = f"I see {listing(alike) if alike else f'no {color} shape'}, so {key}."
    elif style < 0.8:
        if found:
            answer = f"Yes, there is {article(name)} in the {place(rng, found[0].cell)}."
        else:
            answer = f"No, there is no {name}."
    return Answered(question, answer, "yes or no", key)


def _relation(rng: Rng, things: list[Thing]) -> Answered:
    single = [t for t in things if [plain(o) for o in things].count(plain(t)) == 1]
    if len(single) < 2:
        return _attribute(rng, things)
    one, two = (single[int(i)] for i in rng.choice(len(single), 2, replace=False))
    columns = one.cell % 3 != two.cell % 3 and (
        one.cell // 3 == two.cell // 3 or rng.random() < 0.5
    )
    a, b = (one.cell % 3, two.cell % 3) if columns else (one.cell // 3, two.cell // 3)
    words = ("left of", "right of") if columns else ("above", "below")
    first, second = words if rng.random() < 0.5 else words[::-1]
    question = f"Is the {plain(one)} {first} or {second} the {plain(two)}?"
    if rng.random() < 0.5:
        question += " " + choose(rng, EXPLAIN)
    where = [f"the {plain(t)} is in the {place(rng, t.cell)}" for t in (one, two)]
    way = words[int(a > b)]
    answer = f"{upper(where[0])} and {where[1]}, so it is {way} the {plain(two)}."
    return Answered(question, answer, "relation", way)


def ask_shapes(rng: Rng, scene: Shapes) -> Answered:
    things, style = list(scene.things), rng.random()
    if style < 0.35:
        return _count(rng, things)
    if style < 0.65:
        return _attribute(rng, things)
    if style < 0.8:
        return _yes_no(rng, things)
    return _relation(rng, things)


def ask(rng: Rng, scene: Scene) -> Answered:
    """One question about any scene."""
    if isinstance(scene, Shapes):
        return ask_shapes(rng, scene)
    if isinstance(scene, Chart):
        return ask_chart(rng, scene)
    if isinstance(scene, Words):
        return ask_words(rng, scene)
    return ask_clip(rng, scene) if isinstance(scene, Clip) else ask_pair(rng, scene)

"""Questions with checkable answers, and whether a generated answer is right."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from training.world.facts import thing_slots
from training.world.phrases import NUMBERS, PLACES, upper
from training.world.scenes import COLORS, DIRECTIONS, SHAPES, choose

Rng = np.random.Generator


@dataclass(frozen=True)
class Answered:
    """A question, its answer, and the key that a right answer contains."""

    question: str
    answer: str
    kind: str
    key: str


def one_of(rng: Rng, *forms: str) -> str:
    return choose(rng, forms)


def many(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


def number(rng: Rng, count: int, noun: str) -> str:
    verb = "is" if count == 1 else "are"
    word = NUMBERS[count] if count else "zero"
    short = upper(word) + "."
    return (
        short
        if rng.random() < 0.5
        else f"There {verb} {word} {noun if count == 1 else many(noun)}."
    )


def _last(pattern: str, text: str) -> str:
    found = re.findall(pattern, text, re.IGNORECASE)
    return found[-1].lower() if found else ""


def right(text: str, item: Answered) -> bool:
    """Whether a generated answer agrees with the key, by its last word of the key's class."""
    key, kind = item.key, item.kind
    if kind == "counting":
        return _last(rf"\b({'|'.join(NUMBERS)})\b", text) == key
    if kind == "color":
        return _last(rf"\b({'|'.join(COLORS)})\b", text) == key
    if kind == "shape":
        return _last(rf"\b({'|'.join(SHAPES)})\b", text) == key
    if kind == "relation":
        return _last(r"\b(left of|right of|above|below)\b", text) == key
    if kind == "yes or no":
        return _last(r"\b(yes|no)\b", text) == key
    if kind == "place":
        names = "|".join(sorted({n for ns in PLACES for n in ns}, key=len, reverse=True))
        return _last(rf"\b({names})\b", text) in PLACES[int(key)]
    if kind in ("value", "sum"):
        return _last(r"\b(\d+)\b", text) == key
    if kind in ("extreme", "compare"):
        found = re.findall(r"\b([A-Z])\b", text)
        return bool(found) and found[-1] == key
    if kind == "reading":
        return re.findall(r'"(\w+)"', text) == key.split()
    if kind == "row":
        return _last(r"\b(top|middle|bottom)\b", text) == key
    if kind == "pair":
        return _last(r"\b(first|second)\b", text) == key
    if kind == "describe":
        cells = {slot.split()[1] for slot in thing_slots(text)}
        return cells == set(key.split())
    if kind == "motion":
        return _last_event(text) == key
    if kind == "order":
        name = " ".join(key.split()[:2])
        return name in text.lower() and key == f"{name} {_last_event(text)}"
    return key in text.lower()  # who


def _last_event(text: str) -> str:
    """The last event that an answer names: a direction, 'appears' or 'leaves'."""
    ways = "|".join(sorted(DIRECTIONS, key=len, reverse=True))
    found = re.findall(rf"\b(?:moves|moving) ({ways})\b|\b(appears|leaves)\b", text.lower())
    return "".join(found[-1]) if found else ""

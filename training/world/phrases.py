"""Shared vocabulary: number words, places, and phrases that state facts."""

from __future__ import annotations

import numpy as np

from training.world.scenes import SIZES, Thing, choose

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLACES: tuple[tuple[str, ...], ...] = (
    ("top left", "upper left"),
    ("top center", "top middle"),
    ("top right", "upper right"),
    ("middle left", "center left"),
    ("center", "very center"),
    ("middle right", "center right"),
    ("bottom left", "lower left"),
    ("bottom center", "bottom middle"),
    ("bottom right", "lower right"),
)
ROWS = ("top", "middle", "bottom")
SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "large", "big")}
CAPTION_PROMPTS = (
    "Describe the picture.",
    "What do you see?",
    "Write a caption.",
    "What is shown here?",
    "Tell me what is in this picture.",
    "Give a detailed description.",
)
VIDEO_PROMPTS = (
    "What happens in this clip?",
    "Describe the video.",
    "Tell me what happens.",
    "Write a caption for this video.",
)
EXPLAIN = ("Explain your answer.", "Explain.", "Give your reasons.", "Think step by step.")


def place(rng: np.random.Generator, cell: int) -> str:
    """A name of a cell, most often the first."""
    names = PLACES[cell]
    return names[0] if rng.random() < 0.7 else names[1]


def adjective(rng: np.random.Generator, thing: Thing) -> str:
    return choose(rng, SIZE_WORDS[thing.size])


def plain(thing: Thing) -> str:
    """'red circle'."""
    return f"{thing.color} {thing.shape}"


def full(rng: np.random.Generator, thing: Thing) -> str:
    """'small red circle', the size in any of its words."""
    return f"{adjective(rng, thing)} {plain(thing)}"


def article(text: str) -> str:
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"


def plural(count: int, noun: str) -> str:
    """'two circles', 'one cross', 'no stars'."""
    if count == 1:
        return f"one {noun}"
    many = noun + ("es" if noun.endswith("s") else "s")
    return f"{NUMBERS[count] if count else 'no'} {many}"


def listing(items: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def upper(text: str) -> str:
    return text[0].upper() + text[1:]


def size_of(word: str) -> str | None:
    """The size of a size word; None if it is another word."""
    return next((size for size in SIZES if word in SIZE_WORDS[size]), None)

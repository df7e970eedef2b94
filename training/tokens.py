"""The byte-level BPE tokenizer, and conversations as token ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.drills import Drill
from training.pair import SPECIAL
from training.world.dialogue import Conversation, conversations, random_scene
from training.world.render import PATCHES
from training.world.scenes import (
    CLIP_FRAMES,
    COLORS,
    LABELS,
    LEXICON,
    MAX_VALUE,
    SHAPES,
    SIZES,
    Clip,
    Pair,
    Scene,
)

HEAD = "<|im_start|>user "
ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"


def corpus(seed: int, scenes: int) -> Iterator[str]:
    """Training texts, and every word of the lexicon with and without a space."""
    rng = np.random.default_rng([seed, 7])
    for _ in range(scenes):
        for talk in conversations(rng, random_scene(rng), 1, 3):
            for turn in talk:
                yield turn.user + "\n" + turn.answer
    yield from ('"' + word + '" ' + word for word in LEXICON for _ in range(20))
    yield "user system assistant\n" * 50


def train_tokenizer(seed: int, scenes: int = 4000, size: int = 1408) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(seed, scenes), trainer)
    return tokenizer


def visual_count(scene: Scene, frames: int = CLIP_FRAMES) -> int:
    """The number of placeholder tokens that the processor inserts for a scene."""
    if isinstance(scene, Clip):
        return frames * ((PATCHES + 1) // 2) ** 2 + 1
    if isinstance(scene, Pair):
        return 2 * (PATCHES**2 + 1)
    return PATCHES**2 + PATCHES * (PATCHES + 1)


def prefix_ids(tokenizer: Tokenizer, scene: Scene, frames: int = CLIP_FRAMES) -> list[int]:
    """The start of the user's turn with its visual placeholders."""
    mark = "<video>" if isinstance(scene, Clip) else "<image>"
    head: list[int] = tokenizer.encode(HEAD).ids
    return head + [SPECIAL.index(mark)] * visual_count(scene, frames)


def talk_ids(tokenizer: Tokenizer, talk: Conversation) -> tuple[list[int], list[bool]]:
    """Token ids after the prefix, and whether each is trained."""
    ids: list[int] = []
    trained: list[bool] = []
    for i, turn in enumerate(talk):
        opening = "" if i == 0 else f"\n{HEAD}"
        for text, answer in (
            (f"{opening}\n{turn.user}{ASSISTANT}", False),
            (f"{turn.answer}<|im_end|>", True),
        ):
            new = tokenizer.encode(text).ids
            ids += new
            trained += [answer] * len(new)
    return ids, trained


def drill_ids(tokenizer: Tokenizer, item: Drill) -> tuple[list[int], list[bool]]:
    """As `talk_ids`; only the conclusion is trained."""
    given = tokenizer.encode(f"\n{item.question}{ASSISTANT}{item.given}").ids
    last = tokenizer.encode(f"{item.conclusion}<|im_end|>").ids
    return given + last, [False] * len(given) + [True] * len(last)


def prompt_ids(
    tokenizer: Tokenizer, scene: Scene, user: str, frames: int = CLIP_FRAMES
) -> list[int]:
    """The prompt of a single question, as in inference."""
    return prefix_ids(tokenizer, scene, frames) + tokenizer.encode(f"\n{user}{ASSISTANT}").ids


def fact_weights(tokenizer: Tokenizer, weight: float) -> np.ndarray:
    """(vocabulary,) loss weights: ``weight`` for tokens that state facts, 1 for others."""
    facts = {*COLORS, *SHAPES, "top", "middle", "bottom", "left", "right", "center"}
    facts |= {"upper", "lower", "small", "large", "big", "tiny", "little", "up", "down"}
    facts |= {"one", "two", "three", "four", "five", "six", "appears", "leaves", "moves"}
    facts |= {"yes", "no", "zero", "first", "second", "seven", "eight", "nine"}
    out = np.ones(tokenizer.get_vocab_size(), np.float32)
    for token, i in tokenizer.get_vocab().items():
        text = token.lstrip("Ġ")
        if (
            text.lower() in facts
            or text.isdigit()
            or text in LEXICON
            or (len(text) == 1 and text.isupper())
        ):
            out[i] = weight
    return out


def name_tokens(tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """For each patch target, the token that names each class; -1 if no single token does."""
    classes: dict[str, list[str]] = {
        "shape": [f" {shape}" for shape in SHAPES],
        "color": [f" {color}" for color in COLORS],
        "size": [f" {size}" for size in SIZES],
        "value": [f" {value}" for value in range(1, MAX_VALUE + 1)],
        "label": [f" {label}" for label in LABELS],
        "word": list(LEXICON),
    }
    out = {}
    for name, texts in classes.items():
        ids = [tokenizer.encode(text).ids for text in texts]
        out[name] = np.array([i[0] if len(i) == 1 else -1 for i in ids])
    return out

"""The thoughts that reasoning models write before their answer, and the tags around them."""

from __future__ import annotations

import re

__all__ = ["ANSWER_TAGS", "THOUGHT_TAGS", "opened_thought", "without_thoughts"]

THOUGHT_TAGS = (
    ("<think>", "</think>"),  # Qwen3-VL, GLM-4.1V, InternVL, Kimi, DeepSeek
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),  # Mistral
    ("◁think▷", "◁/think▷"),  # Kimi-VL
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
ANSWER_TAGS = (
    ("<answer>", "</answer>"),
    ("<|begin_of_box|>", "<|end_of_box|>"),  # GLM-4.5V
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
)
"""Tags around the answer itself."""


def opened_thought(prompt: str) -> str:
    """The tag that a prompt ends with, so that its answer begins within a thought; else empty."""
    end = prompt.rstrip()
    return next((opening for opening, _ in THOUGHT_TAGS if end.endswith(opening)), "")


def without_thoughts(text: str, opened: str = "") -> str:
    """The answer alone; empty if the text ends within a thought.

    A closing tag without an opening one ends a thought that began with the text. ``opened``: the
    tag that the prompt ended with.
    """
    text = opened + text
    for opening, closing in THOUGHT_TAGS:
        if opening in text:
            between = f"{re.escape(opening)}.*?{re.escape(closing)}"
            text = re.sub(between, "", text, flags=re.DOTALL).partition(opening)[0]
        text = text.rpartition(closing)[2]
    for tag in (one for pair in ANSWER_TAGS for one in pair):
        text = text.replace(tag, "")
    return text.strip()

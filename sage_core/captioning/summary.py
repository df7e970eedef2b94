"""One text over the captions of a clip's segments, in as many rounds as the context requires."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sage_core.captioning.subtitles import Cue, timed_lines
from sage_core.errors import OptionError
from sage_core.options import Options
from sage_core.pipeline import Pipeline
from sage_core.stream import Result

__all__ = ["SUMMARY_PROMPT", "summarize"]

SUMMARY_PROMPT = (
    "These are captions of one video from its beginning to its end, each after its times:\n\n"
    "{captions}\n\nDescribe the whole video in one paragraph."
)
_LEAST = 64
"""Tokens that must be left for captions."""


def summarize(
    pipeline: Pipeline, cues: Sequence[Cue], template: str = SUMMARY_PROMPT, **options: Any
) -> list[Result]:
    """Texts over ``cues``; the last one is over all of them.

    Where the captions do not fit into the model's context with the new text, groups of neighbours
    are described first, and then those texts in their place, until they fit.

    Raises:
        OptionError: the prompt and the new text alone leave no room for captions.
    """
    room = _room(pipeline, template, Options.of(options))
    results: list[Result] = []
    while True:
        groups = list(_groups(pipeline, cues, room))
        texts = []
        for group in groups:
            prompt = template.replace("{captions}", timed_lines(group))
            results.append(pipeline.ask([], prompt, **options))
            texts.append(Cue(group[0].start, group[-1].end, results[-1].text))
        if len(groups) == 1:
            return results
        cues = texts


def _room(pipeline: Pipeline, template: str, options: Options) -> int | None:
    """Tokens that captions may have; None: any number."""
    context = pipeline.context
    if context is None:
        return None
    new_tokens, system = options.max_new_tokens, options.text_rules().system or ""
    alone = pipeline.prompt_tokens(template.replace("{captions}", "-"), system)
    room = context - new_tokens - alone
    if room < _LEAST:
        raise OptionError(
            f"a summary of {new_tokens} tokens leaves no room for captions in the model's context "
            f"of {context}: ask for fewer new tokens"
        )
    return room


def _groups(pipeline: Pipeline, cues: Sequence[Cue], room: int | None) -> Iterator[list[Cue]]:
    """Neighbours that fit together, at least two of them, so that there are fewer each time."""
    if room is None:
        yield list(cues)
        return
    group: list[Cue] = []
    used = 0
    for cue in cues:
        cue, size = _shortened(pipeline, cue, room // 2)
        if group and used + size > room:
            yield group
            group, used = [], 0
        group.append(cue)
        used += size
    yield group


def _shortened(pipeline: Pipeline, cue: Cue, most: int) -> tuple[Cue, int]:
    """``cue`` with at most ``most`` tokens on its line, and how many it has."""
    while (size := pipeline.count_tokens(timed_lines([cue]) + "\n")) > most and cue.text:
        cue = cue._replace(text=cue.text[: len(cue.text) * 3 // 4])
    return cue, size

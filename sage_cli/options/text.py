"""The options about the prompt, and what is done to the text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from sage_cli.options import flags
from sage_cli.options.media import usable_prompt

__all__ = ["TEMPLATE", "TextOptions"]

_setting = partial(flags.setting, flags.TEXT)
_once = partial(flags.once, flags.TEXT)

TEMPLATE: Any = _setting(
    "Prompt, instead of the default request for a caption. For each file {name}, {stem}, {dir}, "
    "{parent}, {index}, {sidecar} (the text beside it) and {description} (its metadata) are "
    "filled in.",
    metavar="TEXT",
    callback=usable_prompt,
)


@dataclass(frozen=True)
class TextOptions:
    """The prompt, and where the text begins and ends. The result names what was used."""

    preset: Annotated[
        str | None,
        _setting(
            "A prompt by name, with the options that go with it: short, long, tags, training, "
            "alt-text, ocr, or your own; sage presets lists them. Options that are given besides "
            "come first.",
            metavar="NAME",
        ),
    ] = None
    prompt_file: Annotated[
        Path | None, _once("Read the prompt from FILE, a text in UTF-8.", metavar="FILE")
    ] = None
    system: Annotated[
        str | None,
        _setting("System message, for models whose chat template takes one.", metavar="TEXT"),
    ] = None
    prefix: Annotated[
        str | None,
        _setting("Put TEXT before each text, as it is: a trigger word.", metavar="TEXT"),
    ] = None
    suffix: Annotated[
        str | None, _setting("Put TEXT behind each text, as it is.", metavar="TEXT")
    ] = None
    start_with: Annotated[
        str | None,
        _setting(
            "Let the answer begin with TEXT, which the model continues. It is part of the prompt, "
            "and of the text.",
            metavar="TEXT",
        ),
    ] = None
    max_sentences: Annotated[
        int | None, _setting("End the text after N sentences.", min=1, metavar="N")
    ] = None
    end_at_sentence: Annotated[
        bool,
        _setting("Cut a text that the model has not ended itself back to its last whole sentence."),
    ] = False
    strip_thinking: Annotated[bool, _setting("Leave out the thoughts of reasoning models.")] = False
    stop_repetition: Annotated[
        bool,
        _setting(
            "End a text that repeats the same passage over and over; its finish_reason is "
            "'repetition'."
        ),
    ] = False
    retry: Annotated[
        bool,
        _setting("Decode such a text again, once, with a repetition penalty."),
    ] = False
    schema: Annotated[
        Path | None,
        _once(
            "Constrain the text to JSON that follows the JSON schema in FILE (needs the extra "
            "'grammar').",
            "--json-schema",
            metavar="FILE",
        ),
    ] = None

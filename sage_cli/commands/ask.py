"""``sage ask``: one answer about images and videos given together, or in text alone."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sage_cli.console import display_name
from sage_cli.jobs.inputs import STDIN, Source, collect
from sage_cli.options.answer import AnswerOptions
from sage_cli.options.flags import argument
from sage_cli.options.preset import with_prompt
from sage_cli.options.takes_options import takes_options
from sage_core.captioning.prompts import PromptTemplate
from sage_core.checks import no_utf8_at
from sage_core.errors import InputError, OptionError

__all__ = ["ask"]


@takes_options(AnswerOptions)
def ask(
    *,
    files: Annotated[
        list[str] | None,
        argument(
            "FILE",
            "Images and videos, all in one prompt; '-' reads one from standard input. None: a "
            "question in text alone.",
        ),
    ] = None,
    question: Annotated[
        str | None,
        argument(
            "QUESTION",
            "The question, in quotes: the last argument. --prompt-file and --preset take its "
            "place.",
        ),
    ] = None,
    context: typer.Context,
    options: AnswerOptions,
) -> int:
    """Answer one question about images and videos together, or a question in text alone."""
    from sage_cli.jobs.decode import Request, run

    options, template = with_prompt(context, options, None)
    names = files or []
    if template is not None and question is not None and _is_input(question):
        names, question = [*names, question], None
    if question is not None:
        if options.prompt_file is not None:
            raise OptionError("--prompt-file and a question exclude each other")
        _check_question(question)
        template = None
    elif template is None:
        raise OptionError('the question is missing: sage ask FILE... "QUESTION"')
    sources = collect(names, options.files_from, least=0)
    asked = question if template is None else _filled(template, sources)
    return run(Request(sources, asked), options)


def _filled(template: PromptTemplate, sources: Sequence[Source]) -> str:
    """The prompt; its placeholders are about one file."""
    if template.per_file and len(sources) != 1:
        raise OptionError(
            f"the placeholders of the prompt are about one file, not {len(sources)}: give one, or "
            "leave them out"
        )
    return template.fill(sources[0].name if sources else "", 1)


def _is_input(text: str) -> bool:
    """Whether the last argument is a file where something else brings the question."""
    return text == STDIN or _is_file(text) or _names_a_file(text)


def _check_question(question: str) -> None:
    if not question.strip():
        raise OptionError('the question is empty: sage ask FILE... "question"')
    if no_utf8_at(question) is not None:
        raise OptionError("the question is not UTF-8 text: write it in UTF-8")
    if _is_file(question):
        raise OptionError(
            f"the last argument is the question, but {display_name(question)} is a file: "
            'sage ask FILE... "question"'
        )
    if _names_a_file(question):
        raise InputError(f"{display_name(question)}: {_why_not(question)}, and no question follows")


def _names_a_file(text: str) -> bool:
    """Whether a text can hardly be a question: the name of an image or video, a path, a URL.

    With spaces in it, it must both begin as a path and end as a file of these kinds.
    """
    from sage_core.media import is_url

    path = text.startswith(("/", "./", "../", "~/")) or is_url(text)
    kind = mimetypes.guess_type(text)[0] or ""
    named = kind.startswith(("image/", "video/"))
    return path and named if any(c.isspace() for c in text) else path or named


def _why_not(name: str) -> str:
    from sage_core.media import is_url

    if is_url(name):
        return "URLs are not read"
    return "is a directory" if Path(name).is_dir() else "no such file"


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # longer than a name can be, or with a NUL in it
        return False

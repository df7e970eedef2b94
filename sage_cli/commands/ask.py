"""``sage ask``: one answer about images and videos given together, or in text alone."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Annotated

from sage_cli.console import display_name
from sage_cli.jobs.inputs import collect
from sage_cli.options.flags import DECODING, argument, once
from sage_cli.options.shared import RunOptions
from sage_cli.options.takes_options import takes_options
from sage_core.checks import no_utf8_at
from sage_core.errors import InputError, OptionError
from sage_core.files.reading import read_text

__all__ = ["ask"]


@takes_options(RunOptions)
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
        str,
        argument("QUESTION", "The question, in quotes: the last argument."),
    ],
    json_schema: Annotated[
        Path | None,
        once(
            DECODING,
            "Constrain the answer to JSON that follows the JSON schema in FILE (needs the extra "
            "'grammar').",
            metavar="FILE",
        ),
    ] = None,
    options: RunOptions,
) -> int:
    """Answer one question about images and videos together, or a question in text alone."""
    from sage_cli.jobs.decode import Request, run

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
    sources = collect(files or [], options.files_from, least=0)
    if json_schema is None:
        return run(Request(sources, question), options)
    schema = read_text(json_schema, error=OptionError)
    request = Request(sources, question, {"json_schema": schema})
    return run(request, options, reads=[str(json_schema)])


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

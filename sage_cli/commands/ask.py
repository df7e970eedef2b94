"""``sage ask``: one answer about pictures and clips seen together, or to a question alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sage_cli.console import display_name
from sage_cli.jobs.inputs import collect
from sage_cli.options.flags import DECODING
from sage_cli.options.shared import RunOptions
from sage_cli.options.takes_options import takes_options
from sage_core.errors import OptionError

__all__ = ["ask"]


@takes_options(RunOptions)
def ask(
    *,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            help="Pictures and clips; '-' reads one from standard input. None: a question alone.",
            show_default=False,
        ),
    ] = None,
    question: Annotated[
        str,
        typer.Argument(
            metavar="QUESTION",
            help="What to ask, in quotes: the last argument.",
            show_default=False,
        ),
    ],
    json_schema: Annotated[
        Path | None,
        typer.Option(
            "--json-schema",
            help="Answer in JSON that follows the JSON schema in FILE (needs the extra 'grammar').",
            rich_help_panel=DECODING,
            metavar="FILE",
        ),
    ] = None,
    options: RunOptions,
) -> int:
    """Answer a question about pictures and clips, seen together, or about nothing but itself."""
    from sage_cli.jobs.decode import Request, run

    if not question.strip():
        raise OptionError('the question is empty: sage ask FILE... "question"')
    if _is_file(question):
        raise OptionError(
            f"the last argument is the question, but {display_name(question)} is a file: "
            'sage ask FILE... "question"'
        )
    sources = collect(files or [], options.files_from, least=0)
    if json_schema is None:
        return run([Request(sources, question)], options)
    request = Request(sources, question, _read(json_schema))
    return run([request], options, reads=[str(json_schema)])


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise OptionError(f"--json-schema {display_name(str(file))}: {reason}") from error


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # longer than a name can be, or with a NUL in it
        return False

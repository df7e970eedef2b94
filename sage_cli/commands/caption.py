"""``sage caption``: describe each picture or clip."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_cli.batching import AUTO, BATCH
from sage_cli.collect import takes_options
from sage_cli.inputs import collect
from sage_cli.options import PROMPT, RunOptions

__all__ = ["caption"]


@takes_options(RunOptions)
def caption(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            help="Pictures and clips; '-' reads one from standard input.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[str | None, PROMPT] = None,
    batch: Annotated[str, BATCH] = AUTO,
    *,
    options: RunOptions,
) -> int:
    """Describe pictures and clips, each on its own."""
    from sage_cli.job import Request, run

    sources = collect(files or [], options.files_from)
    return run([Request((source,), prompt) for source in sources], options, batch)

"""``sage caption``: describe each picture or clip."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_cli.jobs.batching import AUTO, BATCH
from sage_cli.jobs.inputs import collect
from sage_cli.options.shared import PROMPT, RunOptions
from sage_cli.options.takes_options import takes_options

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
    from sage_cli.jobs.decode import Request, run

    sources = collect(files or [], options.files_from)
    return run([Request((source,), prompt) for source in sources], options, batch)

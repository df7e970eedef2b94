"""``sage caption``: describe each image or video."""

from __future__ import annotations

from typing import Annotated

from sage_cli.jobs.inputs import collect
from sage_cli.options.decoding import AUTO, BATCH
from sage_cli.options.flags import argument
from sage_cli.options.shared import PROMPT, RunOptions
from sage_cli.options.takes_options import takes_options

__all__ = ["caption"]


@takes_options(RunOptions)
def caption(
    files: Annotated[
        list[str] | None,
        argument("FILE", "Images and videos; '-' reads one from standard input."),
    ] = None,
    prompt: Annotated[str | None, PROMPT] = None,
    batch: Annotated[str, BATCH] = AUTO,
    *,
    options: RunOptions,
) -> int:
    """Describe images and videos, each on its own."""
    from sage_cli.jobs.decode import Request, run

    sources = collect(files or [], options.files_from)
    return run([Request((source,), prompt) for source in sources], options, batch)

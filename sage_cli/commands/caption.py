"""``sage caption``: describe each image or video."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_cli.jobs.inputs import collect
from sage_cli.options.caption import CaptionOptions
from sage_cli.options.decoding import AUTO, BATCH
from sage_cli.options.flags import argument
from sage_cli.options.preset import with_prompt
from sage_cli.options.takes_options import takes_options
from sage_cli.options.text import TEMPLATE

__all__ = ["caption"]


@takes_options(CaptionOptions)
def caption(
    files: Annotated[
        list[str] | None,
        argument(
            "FILE|FOLDER",
            "Images, videos and folders of them; '-' reads one from standard input.",
        ),
    ] = None,
    prompt: Annotated[str | None, TEMPLATE] = None,
    batch: Annotated[str, BATCH] = AUTO,
    *,
    context: typer.Context,
    options: CaptionOptions,
) -> int:
    """Describe images and videos, each on its own."""
    from sage_cli.jobs.captions import run
    from sage_core.captioning.find import Finder

    finder = Finder(options.recursive, options.include or (), options.exclude or ())
    options, template = with_prompt(context, options, prompt)
    sources = collect(files or [], options.files_from, finder=finder, column=options.column)
    return run(sources, template, options, batch, finder.skipped)

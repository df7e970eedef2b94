"""``sage caption``: describe each image or video."""

from __future__ import annotations

from typing import Annotated

from sage_cli.jobs.inputs import collect
from sage_cli.options.caption import CaptionOptions
from sage_cli.options.decoding import AUTO, BATCH
from sage_cli.options.flags import argument
from sage_cli.options.shared import PROMPT
from sage_cli.options.takes_options import takes_options

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
    prompt: Annotated[str | None, PROMPT] = None,
    batch: Annotated[str, BATCH] = AUTO,
    *,
    options: CaptionOptions,
) -> int:
    """Describe images and videos, each on its own."""
    from sage_cli.jobs.captions import run
    from sage_core.captioning.find import Finder

    finder = Finder(options.recursive, options.include or (), options.exclude or ())
    sources = collect(files or [], options.files_from, finder=finder, column=options.column)
    return run(sources, lambda source, number: prompt, options, batch, finder.skipped)

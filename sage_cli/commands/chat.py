"""``sage chat``: a conversation about the same images and videos."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from sage_cli.jobs.inputs import STDIN, collect
from sage_cli.options.flags import argument
from sage_cli.options.shared import RunOptions
from sage_cli.options.takes_options import takes_options
from sage_core.errors import OptionError

__all__ = ["chat"]


@takes_options(RunOptions)
def chat(
    files: Annotated[
        list[str] | None,
        argument(
            "FILE", "Images and videos to ask about; without any, a conversation in text alone."
        ),
    ] = None,
    *,
    options: RunOptions,
) -> int:
    """Answer questions about images and videos, one after another.

    Each line typed, or of standard input, is a question. The KV caches of earlier turns are
    reused, so that a turn only processes its question. /help lists the commands, such as /add FILE.
    """
    from sage_cli.jobs.chat import Lines, run

    if STDIN in (files or []) or options.files_from == STDIN:
        raise OptionError("standard input holds the questions: name the files")
    sources = collect(files or [], options.files_from, least=0)
    if options.live is None:  # text is streamed: the view would hide the conversation
        options = replace(options, live=False)
    return run(sources, options, Lines())

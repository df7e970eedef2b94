"""``sage chat``: one question after another about the same pictures and clips."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from sage_cli.jobs.inputs import STDIN, collect
from sage_cli.options.shared import RunOptions
from sage_cli.options.takes_options import takes_options
from sage_core.errors import OptionError

__all__ = ["chat"]


@takes_options(RunOptions)
def chat(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            help="Pictures and clips to talk about; none: a conversation without.",
            show_default=False,
        ),
    ] = None,
    *,
    options: RunOptions,
) -> int:
    """Answer questions about pictures and clips, one after another.

    Each line typed, or of standard input, is a question; both models keep what they have read, so
    that an answer only has to read its question. /help lists the commands, such as /add FILE.
    """
    from sage_cli.console import set_verbosity
    from sage_cli.jobs.chat import ChatLoop, Lines
    from sage_cli.jobs.decode import Job, load
    from sage_cli.jobs.request import Request
    from sage_cli.options.check import check

    if STDIN in (files or []) or options.files_from == STDIN:
        raise OptionError("standard input holds the questions: name the files")
    sources = collect(files or [], options.files_from, least=0)
    if options.live is None:  # text is written as it comes: the view would hide the conversation
        options = replace(options, live=False)
    policy = check(options, several=True, inputs=[STDIN, *(source.name for source in sources)])
    if (why := Request(sources, None).refusal()) is not None:
        raise why
    set_verbosity(options.verbose)
    pipeline = load(options)
    job = Job(options, pipeline, policy, several=True, headed=False)
    conversation = pipeline.chat([source.open() for source in sources], **job.decoding())
    loop = ChatLoop(
        job, conversation, sources, Lines(), quiet=options.quiet, verbose=options.verbose
    )
    return loop.run()

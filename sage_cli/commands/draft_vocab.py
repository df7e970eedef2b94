"""``sage draft-vocab``: choose the tokens of a draft's reduced LM head from texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from sage_cli.jobs.inputs import Source, collect
from sage_cli.options.flags import MODELS, OUTPUT, argument, once
from sage_cli.options.shared import subset
from sage_cli.options.takes_options import takes_options
from sage_core.errors import OptionError
from sage_core.files.reading import LIST_LIMIT, read_bytes

__all__ = ["draft_vocab"]

_Shared = subset(
    "_Shared", {"model", "revision", "trust_remote_code", "quiet", "verbose", "config"}
)


@takes_options(_Shared)
def draft_vocab(
    files: Annotated[
        list[str] | None,
        argument(
            "FILE",
            "Text like the model's answers, or its own answers from --jsonl; '-' reads "
            "standard input.",
        ),
    ] = None,
    size: Annotated[
        int, once(MODELS, "Keep the N most frequent tokens.", min=1, metavar="N")
    ] = 32_768,
    output: Annotated[
        Path | None,
        once(
            OUTPUT,
            "Write to FILE instead of standard output, for --draft-vocab FILE.",
            metavar="FILE",
        ),
    ] = None,
    *,
    options: Any = None,
) -> None:
    """Count the tokens of texts and write the most frequent ones, for --draft-vocab."""
    from sage_cli.console import say, set_verbosity
    from sage_cli.render.outputs import (
        check_not_input,
        check_writable,
        stdout_writer,
        write_output,
    )

    set_verbosity(options.verbose)
    if not files:
        raise OptionError(
            "no files to count tokens in: give text like the model's answers, or its own answers "
            "from sage caption --jsonl"
        )
    if output is not None:
        check_writable(output, "--output")
        check_not_input(output, "--output", files)
    sources = [(source.label, _content(source)) for source in collect(files, None)]
    from sage_core.drafts.vocab.count_tokens import count_vocab

    vocab = count_vocab(
        sources, options.model, size, revision=options.revision, code=options.trust_remote_code
    )
    if output is None:
        stdout_writer()(vocab.as_json())
    else:
        write_output(output, vocab.as_json())
    if not options.quiet:
        say(
            f"{len(vocab):,} tokens, {len(vocab.always):,} of them special, make up "
            f"{vocab.covered:.2%} of the {vocab.counted:,} counted"
        )


def _content(source: Source) -> bytes:
    """All of a file or of standard input.

    Raises:
        InputError: it cannot be read.
    """
    opened = source.open()
    if not isinstance(opened, str):
        return opened.read()
    return read_bytes(opened, limit=LIST_LIMIT, pipe=True)

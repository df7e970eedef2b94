"""``sage draft-vocab``: count which tokens a draft is to score."""

from __future__ import annotations

from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from sage_cli.options.flags import MODELS, OUTPUT, once
from sage_cli.options.shared import RunOptions
from sage_cli.options.takes_options import takes_options

__all__ = ["draft_vocab"]

_SHARED = ("model", "revision", "trust_remote_code", "quiet", "verbose", "config")
_KINDS = get_type_hints(RunOptions, include_extras=True)
_ModelOptions = make_dataclass(
    "_ModelOptions",
    [(f.name, _KINDS[f.name], f) for f in fields(RunOptions) if f.name in _SHARED],
    frozen=True,
)


@dataclass(frozen=True)
class VocabOptions:
    """Options of the command's own."""

    size: Annotated[
        int, once("--size", "Keep the N most frequent tokens.", MODELS, min=1, metavar="N")
    ] = 32_768
    output: Annotated[
        Path | None,
        once(
            "--output",
            "Write to FILE instead of standard output, for --draft-vocab FILE.",
            OUTPUT,
            metavar="FILE",
        ),
    ] = None


@takes_options(_ModelOptions, "models")
@takes_options(VocabOptions)
def draft_vocab(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            help="Text like what the model is to write, or its own answers from --jsonl; '-' reads "
            "standard input.",
            show_default=False,
        ),
    ] = None,
    *,
    options: VocabOptions,
    models: Any = None,
) -> None:
    """Count the tokens of texts, and write which of them a draft is to score (--draft-vocab)."""
    from sage_cli.console import say, set_verbosity
    from sage_cli.jobs.inputs import collect
    from sage_cli.render.outputs import (
        check_not_input,
        check_writable,
        stdout_writer,
        write_output,
    )
    from sage_core.errors import OptionError

    set_verbosity(models.verbose)
    if not files:
        raise OptionError(
            "no files to count in: give text like what the model is to write, or its own answers, "
            "as sage caption --jsonl prints them (the order of a tokenizer's ids says little)"
        )
    if options.output is not None:
        check_writable(options.output, "--output")
        check_not_input(options.output, "--output", files)
    sources = [(source.label, _content(source)) for source in collect(files, None)]
    from sage_core.drafts.vocab.count_tokens import count_vocab

    vocab = count_vocab(
        sources,
        models.model,
        options.size,
        revision=models.revision,
        code=models.trust_remote_code,
    )
    if options.output is None:
        stdout_writer()(vocab.as_json())
    else:
        write_output(options.output, vocab.as_json())
    if not models.quiet:
        say(
            f"{len(vocab):,} tokens, {len(vocab.always):,} of them special, make up "
            f"{vocab.covered:.2%} of the {vocab.counted:,} counted"
        )


def _content(source: Any) -> bytes:
    """All of a file or of standard input.

    Raises:
        InputError: it cannot be read.
    """
    from sage_core.errors import InputError

    opened = source.open()
    if not isinstance(opened, str):
        return bytes(opened.read())
    try:
        return Path(opened).read_bytes()
    except OSError as error:
        raise InputError(f"{source.label}: {error.strerror or error}") from error
